/* The Xen backend: memory of gntalloc (ours) and gntdev (the peer's), channels of evtchn, one descriptor each.
 *
 * An event channel says nothing of its end: a notification to nobody succeeds. So each side's kernel is told to notify the
 * peer, and to clear a byte in the first page (wire_presence), when the last of it is unmapped: that is also done for a process
 * that dies. It is not done for a domain that is destroyed: only XenStore's @releaseDomain tells of that. In LING's layout
 * there is no such byte; there the peer only gets an event, and its keys in XenStore say the rest.
 *
 * An event means "look", never more: binding makes one too.
 */
#define _GNU_SOURCE
#include "core.h"

#if __has_include(<xen/gntalloc.h>) && __has_include(<xen/gntdev.h>) && __has_include(<xen/evtchn.h>)

#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

typedef uint32_t grant_ref_t; /* the headers use these two and do not define them */
typedef uint16_t domid_t;
#include <xen/evtchn.h>
#include <xen/gntalloc.h>
#include <xen/gntdev.h>

enum { DOMID_RESERVED = 0x7FF0 }; /* from here on no domains: self, I/O, … (xen/include/public/xen.h) */
enum { PAGES_MAX = 1024 };        /* more than any pore has */

static int device(const char *path, int flags) {
    int fd = open(path, O_RDWR | O_CLOEXEC | flags);
    return fd < 0 ? -errno : fd;
}

/* The ioctl's result, or -errno and the descriptor is closed. */
static int ask(int fd, unsigned long request, void *argument) {
    int result = ioctl(fd, request, argument), error = errno;
    if (result >= 0) return result;
    close(fd);
    return -error;
}

/* ---- memory ---- */

int xen_grant(uint32_t own, uint32_t peer, uint32_t pages, uint32_t *refs) {
    struct ioctl_gntalloc_alloc_gref *request;
    int fd, error;
    if (peer == own || peer >= DOMID_RESERVED || !pages || pages > PAGES_MAX) return -EINVAL;
    request = calloc(1, sizeof *request + pages * sizeof request->gref_ids[0]);
    if (!request) return -ENOMEM;
    *request = (struct ioctl_gntalloc_alloc_gref){.domid = (uint16_t)peer, .flags = GNTALLOC_FLAG_WRITABLE, .count = pages};
    fd = device("/dev/xen/gntalloc", 0);
    error = fd < 0 ? fd : ask(fd, IOCTL_GNTALLOC_ALLOC_GREF, request);
    if (error >= 0) memcpy(refs, request->gref_ids, pages * sizeof *refs);
    free(request);
    return error < 0 ? error : fd;
}

int xen_map(uint32_t peer, const uint32_t *refs, uint32_t pages) {
    struct ioctl_gntdev_map_grant_ref *request;
    int fd, error;
    if (peer >= DOMID_RESERVED || !pages || pages > PAGES_MAX) return -EINVAL;
    request = calloc(1, sizeof *request + pages * sizeof request->refs[0]);
    if (!request) return -ENOMEM;
    request->count = pages;
    for (uint32_t i = 0; i < pages; i++) request->refs[i] = (struct ioctl_gntdev_grant_ref){peer, refs[i]};
    fd = device("/dev/xen/gntdev", 0);
    error = fd < 0 ? fd : ask(fd, IOCTL_GNTDEV_MAP_GRANT_REF, request);
    free(request);
    return error < 0 ? error : fd;
}

/* The first and only thing that the descriptor has: at its offset 0. */
static int xen_memory(const struct pore_memory *memory, uint32_t pages, void **base) {
    if (memory->pages != pages || memory->page_index) return -EINVAL;
    *base = mmap(NULL, (size_t)pages * WIRE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory->fd, 0);
    return *base == MAP_FAILED ? -errno : 0;
}

static void xen_unmap(struct channel *channel, void *base, size_t bytes) {
    if (channel && channel->ours) ring_store_byte(channel->ours, PRESENCE_OVER);
    munmap(base, bytes);
}

int xen_still_mapped(int grant, uint32_t pages) {
    struct pore_memory memory = {.fd = grant, .pages = 1, .platform = PORE_XEN};
    struct wire_presence *shared;
    uint8_t passive;
    void *base;
    int error;
    if (pages == STRAW_PAGES) return 0; /* LING's: what is there is data */
    if ((error = xen_memory(&memory, 1, &base))) return error;
    shared = (void *)((uint8_t *)base + WIRE_PRESENCE);
    passive = ring_load_byte((ring_byte *)(void *)&shared->passive);
    error = ring_load_index((ring_word *)(void *)&shared->magic) == PRESENCE_MAGIC &&
            (passive == PRESENCE_HERE || passive == PRESENCE_OVER);
    munmap(base, WIRE_PAGE);
    return error;
}

/* Our kernel is to tell the peer when the first page is not mapped by us any more, and not to be mapped again. */
static int xen_arm(struct pore *pore, const struct pore_memory *memory) {
    const struct channel *channel = &pore->channels[0];
    uint64_t index = channel->ours ? (uint64_t)((uintptr_t)channel->ours - (uintptr_t)pore->base) : 0;
    uint32_t action = UNMAP_NOTIFY_SEND_EVENT | (channel->ours ? UNMAP_NOTIFY_CLEAR_BYTE : 0);
    struct ioctl_gntalloc_unmap_notify granted = {index, action, channel->port};
    struct ioctl_gntdev_unmap_notify mapped = {index, action, channel->port};
    int result = pore->role == PORE_ACTIVE ? ioctl(memory->fd, IOCTL_GNTALLOC_SET_UNMAP_NOTIFY, &granted)
                                           : ioctl(memory->fd, IOCTL_GNTDEV_SET_UNMAP_NOTIFY, &mapped);
    return result < 0 ? -errno : 0;
}

/* ---- channels ---- */

int xen_alloc_channel(uint32_t peer, uint32_t *port) {
    struct ioctl_evtchn_bind_unbound_port request = {peer};
    int fd, result;
    if (peer >= DOMID_RESERVED) return -EINVAL;
    fd = device("/dev/xen/evtchn", O_NONBLOCK);
    if (fd < 0) return fd;
    result = ask(fd, IOCTL_EVTCHN_BIND_UNBOUND_PORT, &request);
    if (result < 0) return result;
    *port = (uint32_t)result;
    return fd;
}

int xen_bind_channel(uint32_t peer, uint32_t peer_port, uint32_t *port) {
    struct ioctl_evtchn_bind_interdomain request = {peer, peer_port};
    int fd, result;
    if (peer >= DOMID_RESERVED) return -EINVAL;
    fd = device("/dev/xen/evtchn", O_NONBLOCK);
    if (fd < 0) return fd;
    result = ask(fd, IOCTL_EVTCHN_BIND_INTERDOMAIN, &request);
    if (result < 0) return result;
    *port = (uint32_t)result;
    return fd;
}

static int xen_take(struct channel *channel, int fd, uint32_t port) {
    int wake;
    if (!port) return -EINVAL;
    wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake < 0) return -errno;
    *channel = (struct channel){.fd = fd, .wake = wake, .port = port};
    return 0;
}

static void xen_drop(struct channel *channel) { close(channel->wake); }

static int xen_poke(struct channel *channel) {
    struct ioctl_evtchn_notify request = {channel->port};
    return ioctl(channel->fd, IOCTL_EVTCHN_NOTIFY, &request) < 0 ? -EPIPE : 0;
}

/* A port that was read is silent until it is written back: that is done before anybody looks at the ring. */
static int xen_drain(struct channel *channel) {
    uint32_t ports[16];
    int some = 0;
    ssize_t n;
    uint8_t theirs;
    do n = read(channel->fd, ports, sizeof ports);
    while (n < 0 && errno == EINTR);
    if (n > 0) some = write(channel->fd, ports, (size_t)n) == n ? 1 : -EPIPE;
    else if (n < 0 && errno != EAGAIN) some = -EPIPE;
    if (!channel->theirs) return some;
    theirs = ring_load_byte(channel->theirs);
    return theirs == PRESENCE_UNMAPPED || theirs == PRESENCE_OVER ? -EPIPE : some;
}

static int xen_sleep(struct channel *channel) {
    struct pollfd both[2] = {{.fd = channel->fd, .events = POLLIN}, {.fd = channel->wake, .events = POLLIN}};
    return poll(both, 2, -1) < 0 ? -errno : 2;
}

/* The channel itself can't be ended for one side only: the peer finds the byte. */
static void xen_hang_up(struct channel *channel) {
    uint64_t one = 1;
    ssize_t written;
    if (channel->ours) ring_store_byte(channel->ours, PRESENCE_OVER);
    xen_poke(channel);
    do written = write(channel->wake, &one, sizeof one);
    while (written < 0 && errno == EINTR);
}

/* Unmapped by now: the peer is told to look. */
static void xen_close(struct channel *channel) {
    xen_poke(channel);
    close(channel->wake);
    close(channel->fd);
}

int xen_lock(int of) {
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = of, .l_len = 1};
    int fd;
    if (of != XEN_LOCK_STRAW && of != XEN_LOCK_TUBE) return -EINVAL;
    /* On the device: who may not open it needs no lock. It goes with the descriptor, so with its process. */
    fd = device("/dev/xen/gntalloc", 0);
    if (fd >= 0 && fcntl(fd, F_OFD_SETLK, &lock) < 0) {
        int error = errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
        close(fd);
        return error;
    }
    return fd;
}

#else

int xen_grant(uint32_t own, uint32_t peer, uint32_t pages, uint32_t *refs) {
    (void)own, (void)peer, (void)pages, (void)refs;
    return -ENOSYS;
}
int xen_still_mapped(int grant, uint32_t pages) {
    (void)grant, (void)pages;
    return -ENOSYS;
}
int xen_map(uint32_t peer, const uint32_t *refs, uint32_t pages) {
    (void)peer, (void)refs, (void)pages;
    return -ENOSYS;
}
int xen_alloc_channel(uint32_t peer, uint32_t *port) {
    (void)peer, (void)port;
    return -ENOSYS;
}
int xen_bind_channel(uint32_t peer, uint32_t peer_port, uint32_t *port) {
    (void)peer, (void)peer_port, (void)port;
    return -ENOSYS;
}
int xen_lock(int of) {
    (void)of;
    return -ENOSYS;
}

/* The first thing that a maker does fails; the rest is never called. */
static int xen_take(struct channel *channel, int fd, uint32_t port) {
    (void)channel, (void)fd, (void)port;
    return -ENOSYS;
}
static int xen_memory(const struct pore_memory *memory, uint32_t pages, void **base) {
    (void)memory, (void)pages, (void)base;
    return -ENOSYS;
}
static void xen_drop(struct channel *channel) { (void)channel; }
static int xen_arm(struct pore *pore, const struct pore_memory *memory) {
    (void)pore, (void)memory;
    return -ENOSYS;
}
static int xen_poke(struct channel *channel) {
    (void)channel;
    return -EPIPE;
}
#define xen_drain xen_poke
#define xen_sleep xen_poke
static void xen_close(struct channel *channel) { (void)channel; }
#define xen_hang_up xen_close
static void xen_unmap(struct channel *channel, void *base, size_t bytes) { (void)channel, (void)base, (void)bytes; }

#endif

const struct pore_backend pore_xen_backend = {
    .take = xen_take,
    .drop = xen_drop,
    .map = xen_memory,
    .arm = xen_arm,
    .poke = xen_poke,
    .drain = xen_drain,
    .sleep = xen_sleep,
    .hang_up = xen_hang_up,
    .close = xen_close,
    .unmap = xen_unmap,
};
