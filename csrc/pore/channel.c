/* The local backend: a channel is a socketpair end; its memory is memory.c's.
 *
 * A poke is one byte. A full socket means that a poke is pending: that is all a poke says. The end of the stream means that
 * the peer is gone, even when the host is dead too.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core.h"

/* A socket holds fewer one-byte packets than this: one read takes all of a stream, so many reads all of SOCK_SEQPACKET. */
enum { PENDING_MAX = 4096, PACKETS_MAX = 1024 };

static int gone(int error) { return error == EPIPE || error == ECONNRESET || error == ENOTCONN || error == ESHUTDOWN; }

static int local_poke(struct channel *channel) {
    for (;;) {
        if (send(channel->fd, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0) return 0;
        if (errno != EINTR) return gone(errno) ? -EPIPE : 0;
    }
}

static int local_drain(struct channel *channel) {
    char taken[PENDING_MAX];
    int some = 0, turns = channel->stream ? 1 : PACKETS_MAX;
    while (turns) {
        ssize_t n = recv(channel->fd, taken, sizeof taken, MSG_DONTWAIT);
        if (n == 0) return -EPIPE;
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return gone(errno) ? -EPIPE : some;
        some = 1;
        turns--;
    }
    return some;
}

/* One system call instead of two, unless somebody made the descriptor non-blocking. */
static int local_sleep(struct channel *channel) {
    char taken[PENDING_MAX];
    struct pollfd one = {.fd = channel->fd, .events = POLLIN};
    ssize_t n = recv(channel->fd, taken, sizeof taken, 0);
    if (n > 0) return 1;
    if (n == 0 || gone(errno)) return -EPIPE;
    if (errno != EAGAIN && errno != EWOULDBLOCK) return -errno;
    return poll(&one, 1, -1) < 0 ? -errno : 2;
}

static void local_hang_up(struct channel *channel) { shutdown(channel->fd, SHUT_RDWR); }

static void local_close(struct channel *channel) { close(channel->fd); }

static void local_unmap(struct channel *channel, void *base, size_t bytes) {
    (void)channel;
    munmap(base, bytes);
}

/* -ENOTSOCK, -EPROTOTYPE: no end of a socketpair. */
static int local_take(struct channel *channel, int fd, uint32_t port) {
    int domain, type, flags, least = 1;
    (void)port;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0) return -errno;
    size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0) return -errno;
    if (domain != AF_UNIX || (type != SOCK_STREAM && type != SOCK_SEQPACKET)) return -EPROTOTYPE;
    *channel = (struct channel){.fd = fd, .stream = type == SOCK_STREAM, .wake = -1};
    /* A few pokes fill the socket, the kernel's least: more would say no more, and cost what a message costs. */
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &least, sizeof least) < 0) return -errno;
    /* Only sleeping blocks: every other call says MSG_DONTWAIT. */
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0) return -errno;
    return 0;
}

static void local_drop(struct channel *channel) { (void)channel; }

static int local_map(const struct pore_memory *memory, uint32_t pages, void **base) {
    return memory_map(memory, pages, base);
}

/* Whose process dies, its sockets close. */
static int local_arm(struct pore *pore, const struct pore_memory *memory) {
    (void)pore;
    (void)memory;
    return 0;
}

const struct pore_backend pore_local_backend = {
    .take = local_take,
    .drop = local_drop,
    .map = local_map,
    .arm = local_arm,
    .poke = local_poke,
    .drain = local_drain,
    .sleep = local_sleep,
    .hang_up = local_hang_up,
    .close = local_close,
    .unmap = local_unmap,
};
