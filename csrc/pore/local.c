/* The host's client: messages of docs/host-protocol.md over a unix socket, descriptors by SCM_RIGHTS. Nothing blocks.
 *
 * The host is believed no more than a peer: sizes, kinds and descriptors are checked before anyone sees them, and a descriptor
 * that was not expected is closed. After the first fault the connection is closed: nothing after it can be understood.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "../include/pore.h"

enum {
    PACKET_MAX = 4096,
    HEAD = 8,
    FDS_ROOM = 8, /* of which one is ever expected: the others are taken to be closed */
    KIND_REPLY = 0x8000,
    KIND_EVENT = 0x4000,
    PAGE = 4096
};
_Static_assert(HOST_ARGS_MAX == (PACKET_MAX - HEAD) / 4, "a packet full of arguments");

struct host {
    int fd;
    uint32_t sequence;
};

static uint32_t get16(const uint8_t *p) { return p[0] | (uint32_t)p[1] << 8; }
static uint32_t get32(const uint8_t *p) { return get16(p) | get16(p + 2) << 16; }
static void put16(uint8_t *p, uint32_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}
static void put32(uint8_t *p, uint32_t v) {
    put16(p, v);
    put16(p + 2, v >> 16);
}

/* ---- connecting ---- */

int host_from_fd(int fd, struct host **host) {
    int domain, type;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0) return -errno;
    size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0) return -errno;
    if (domain != AF_UNIX || type != SOCK_SEQPACKET) return -EPROTOTYPE;
    *host = malloc(sizeof **host);
    if (!*host) return -ENOMEM;
    **host = (struct host){.fd = fd};
    return 0;
}

int host_connect(const char *path, struct host **host) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd, error;
    if (strlen(path) >= sizeof address.sun_path) return -ENAMETOOLONG;
    strcpy(address.sun_path, path);
    fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) return -errno;
    error = connect(fd, (struct sockaddr *)&address, sizeof address) < 0 ? -errno : host_from_fd(fd, host);
    if (error) close(fd);
    return error;
}

static void hang_up(struct host *host) {
    if (host->fd >= 0) close(host->fd);
    host->fd = -1;
}

int host_fd(struct host *host) { return host->fd < 0 ? -EPIPE : host->fd; }

void host_close(struct host *host) {
    if (!host) return;
    hang_up(host);
    free(host);
}

/* ---- sending ---- */

int host_send(struct host *host, int op, const uint32_t *args, uint32_t count) {
    uint8_t packet[PACKET_MAX];
    uint32_t sequence = host->sequence % INT32_MAX + 1;
    if (host->fd < 0) return -EPIPE;
    if (op < HOST_HELLO || op > HOST_DOMAINS || count > HOST_ARGS_MAX) return -EINVAL;
    put16(packet, (uint32_t)op);
    put16(packet + 2, 0);
    put32(packet + 4, sequence);
    for (uint32_t i = 0; i < count; i++) put32(packet + HEAD + 4 * i, args[i]);
    for (;;) {
        if (send(host->fd, packet, HEAD + 4 * count, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) break;
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) return -EAGAIN;
        if (errno == EINTR) continue;
        return errno == ECONNRESET || errno == ENOTCONN ? -EPIPE : -errno;
    }
    host->sequence = sequence;
    return (int)sequence;
}

/* ---- receiving ---- */

/* Memory that can't be cut short, as large as the reply says. */
static int good_memory(const struct host_message *m) {
    struct stat status;
    uint64_t pages = 0;
    int seals = fcntl(m->fd, F_GET_SEALS);
    if (seals < 0 || (seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW)) return 0;
    if (fstat(m->fd, &status) < 0 || status.st_size < 0) return 0;
    if (m->op == HOST_GRANT) {
        pages = m->count;
        return pages && (uint64_t)status.st_size == pages * PAGE;
    }
    for (uint32_t i = 1; i < m->count; i++) {
        if ((uint64_t)m->args[i] + 1 > pages) pages = (uint64_t)m->args[i] + 1;
    }
    return pages && (uint64_t)status.st_size >= pages * PAGE;
}

static int good_socket(const struct host_message *m) {
    int domain, type;
    socklen_t size = sizeof domain;
    if (getsockopt(m->fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0) return 0;
    size = sizeof type;
    if (getsockopt(m->fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0) return 0;
    return domain == AF_UNIX && (type == SOCK_STREAM || (type == SOCK_SEQPACKET && m->op != HOST_XENSTORE));
}

/* Is the message one that the protocol has, with the descriptor that it has to have? */
static int good(const struct host_message *m) {
    int wanted = 0, enough = 1;
    if (m->kind == HOST_EVENT) {
        if (m->fd >= 0 || m->status || m->sequence) return 0;
        return m->op == HOST_UNMAPPED || (m->op == HOST_DOMAIN_GONE && m->count);
    }
    if (m->op < HOST_HELLO || m->op > HOST_DOMAINS || m->status > 0) return 0;
    if (m->status < 0) return m->fd < 0;
    switch (m->op) {
        case HOST_HELLO: enough = m->count >= 1; break;
        case HOST_GRANT: wanted = 1; break;
        case HOST_MAP:
        case HOST_EVTCHN_ALLOC:
        case HOST_EVTCHN_BIND: enough = m->count >= 1; wanted = 1; break;
        case HOST_XENSTORE: wanted = 1; break;
        case HOST_DOMAINS: enough = m->count >= 1 && m->args[0] == m->count - 1; break;
        default: break;
    }
    if (!enough || (m->fd >= 0) != wanted) return 0;
    if (!wanted) return 1;
    return m->op == HOST_GRANT || m->op == HOST_MAP ? good_memory(m) : good_socket(m);
}

/* Keeps the first descriptor, closes all others; how many there were. */
static int take_fds(struct msghdr *header, int *fd) {
    int count = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) continue;
        for (size_t at = 0; at + sizeof(int) <= c->cmsg_len - CMSG_LEN(0); at += sizeof(int)) {
            int one;
            memcpy(&one, CMSG_DATA(c) + at, sizeof one);
            if (!count++) *fd = one;
            else close(one);
        }
    }
    return count;
}

static void unpack(struct host_message *m, const uint8_t *packet, size_t size) {
    uint32_t op = get16(packet);
    m->kind = op & KIND_REPLY ? HOST_REPLY : op & KIND_EVENT ? HOST_EVENT : 0;
    m->op = (int)(op & ~(uint32_t)(m->kind == HOST_REPLY ? KIND_REPLY : KIND_EVENT));
    m->status = (int16_t)get16(packet + 2);
    m->sequence = get32(packet + 4);
    m->count = (uint32_t)(size - HEAD) / 4;
    for (uint32_t i = 0; i < m->count; i++) m->args[i] = get32(packet + HEAD + 4 * i);
}

int host_receive(struct host *host, struct host_message *m) {
    uint8_t packet[PACKET_MAX];
    union {
        struct cmsghdr head;
        uint8_t room[CMSG_SPACE(FDS_ROOM * sizeof(int))];
    } control;
    struct iovec part = {packet, sizeof packet};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    ssize_t size;
    int fds;
    m->fd = -1;
    if (host->fd < 0) return -EPIPE;
    do size = recvmsg(host->fd, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (size < 0 && errno == EINTR);
    if (size < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return 0;
    if (size < 0) {
        hang_up(host);
        return -EPIPE;
    }
    fds = take_fds(&header, &m->fd);
    if (size == 0 && !fds) {
        hang_up(host);
        return -EPIPE;
    }
    if (size >= HEAD && size % 4 == 0 && fds <= 1 && !(header.msg_flags & (MSG_CTRUNC | MSG_TRUNC))) {
        unpack(m, packet, (size_t)size);
        if (m->kind && good(m)) return 1;
    }
    if (m->fd >= 0) close(m->fd);
    m->fd = -1;
    hang_up(host);
    return -EPROTO;
}
