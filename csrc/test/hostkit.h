/* The host's side of the wire, for the tests of the client: any packet with any descriptors. */
#ifndef HOSTKIT_H
#define HOSTKIT_H

#include "check.h"

static inline void post(int fd, const void *packet, size_t size, const int *fds, int count) {
    union {
        struct cmsghdr head;
        uint8_t room[CMSG_SPACE(64 * sizeof(int))];
    } control = {0};
    struct iovec part = {(void *)(uintptr_t)packet, size};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        struct cmsghdr *c;
        header.msg_control = &control;
        header.msg_controllen = CMSG_SPACE((size_t)count * sizeof(int));
        c = CMSG_FIRSTHDR(&header);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN((size_t)count * sizeof(int));
        memcpy(CMSG_DATA(c), fds, (size_t)count * sizeof(int));
    }
    CHECK(sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)size);
}

struct message {
    uint16_t op;
    int16_t status;
    uint32_t sequence;
    uint32_t args[1022];
};
_Static_assert(sizeof(struct message) == 4096, "a packet");

static inline void reply(int fd, int op, int status, uint32_t sequence, const uint32_t *args, uint32_t count, int with) {
    struct message m = {(uint16_t)(op | 0x8000), (int16_t)status, sequence, {0}};
    if (count) memcpy(m.args, args, count * 4);
    post(fd, &m, 8 + count * 4, &with, with >= 0);
}

/* The two ends: the client, and the host's socket. */
static inline struct host *client(int *peer) {
    struct host *host;
    int ends[2];
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
    CHECK_IS(host_from_fd(ends[0], &host), 0);
    *peer = ends[1];
    return host;
}

#endif
