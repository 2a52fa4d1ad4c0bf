/* The local backend: a channel is a socketpair end, memory a sealed memfd.
 *
 * A poke is one byte. A full socket means that a poke is pending: that is all a poke says. The end of the stream means that
 * the peer is gone, even when the host is dead too.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
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

static void local_unmap(void *base, size_t bytes) { munmap(base, bytes); }

const struct pore_backend pore_local_backend = {local_poke, local_drain, local_sleep, local_hang_up, local_close, local_unmap};

int channel_check(struct channel *channel, int fd) {
    int domain, type, flags;
    socklen_t size = sizeof domain;
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0) return -errno;
    size = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) < 0) return -errno;
    if (domain != AF_UNIX || (type != SOCK_STREAM && type != SOCK_SEQPACKET)) return -EPROTOTYPE;
    channel->fd = fd;
    channel->stream = type == SOCK_STREAM;
    /* Only sleeping blocks: every other call says MSG_DONTWAIT. */
    flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0) return -errno;
    return 0;
}

/* An unsealed memfd can be cut short under us: that would be SIGBUS. */
static int memory_check(const struct pore_memory *memory, uint32_t pages) {
    struct stat status;
    uint64_t need = 0, page;
    int seals;
    if (memory->pages != pages) return -EINVAL;
    for (uint32_t i = 0; i < pages; i++) {
        page = memory->page_index ? memory->page_index[i] : i;
        if (page + 1 > need) need = page + 1;
    }
    seals = fcntl(memory->fd, F_GET_SEALS);
    if (seals < 0) return errno == EBADF ? -EBADF : -EPERM;
    if ((seals & (F_SEAL_SHRINK | F_SEAL_GROW)) != (F_SEAL_SHRINK | F_SEAL_GROW)) return -EPERM;
    if (fstat(memory->fd, &status) < 0) return -errno;
    if (status.st_size < 0 || (uint64_t)status.st_size / WIRE_PAGE < need) return -EINVAL;
    return 0;
}

int memory_map(const struct pore_memory *memory, uint32_t pages, void **base) {
    const uint32_t *page = memory->page_index;
    size_t bytes = (size_t)pages * WIRE_PAGE;
    uint32_t run;
    uint8_t *at;
    int error = memory_check(memory, pages);
    if (error) return error;
    if (!page) {
        at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd, 0);
        if (at == MAP_FAILED) return -errno;
        *base = at;
        return 0;
    }
    /* A place for all, then the pages in our order, neighbours together. */
    at = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) return -errno;
    for (uint32_t i = 0; i < pages; i += run) {
        for (run = 1; i + run < pages && page[i + run] == page[i] + run; run++) {}
        if (mmap(at + (size_t)i * WIRE_PAGE, (size_t)run * WIRE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
                 memory->fd, (off_t)page[i] * WIRE_PAGE) == MAP_FAILED) {
            error = -errno;
            munmap(at, bytes);
            return error;
        }
    }
    *base = at;
    return 0;
}
