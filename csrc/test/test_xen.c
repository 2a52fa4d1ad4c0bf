/* The Xen backend over a kernel of its own: /dev/xen's devices as far as xen.c uses them, with what was seen of the real ones
 * on a booted Xen (a port that was read is silent until it is written back; a notification to nobody succeeds; binding
 * leaves an event pending). The linker's --wrap gives us open, ioctl, read, write and close.
 */
#include "check.h"

#include <pthread.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

typedef uint32_t grant_ref_t;
typedef uint16_t domid_t;
#include <xen/evtchn.h>
#include <xen/gntalloc.h>
#include <xen/gntdev.h>

/* ---- the kernel ---- */

enum { NONE, GNTALLOC, GNTDEV, EVTCHN, FDS = 256, PORT_FIRST = 10 };

static struct device {
    int kind, domid;
    uint32_t port, remote_port;
    int masked, pending;
    uint64_t notify_index;
    uint32_t notify_action, notify_port;
} devices[FDS];
static uint32_t ports = PORT_FIRST;
static int fail_at, calls; /* the so-manieth ioctl fails; 0: none */

int __real_open(const char *path, int flags, ...);
int __wrap_open(const char *path, int flags, ...);
int __wrap_ioctl(int fd, unsigned long request, ...);
ssize_t __real_read(int fd, void *to, size_t size);
ssize_t __wrap_read(int fd, void *to, size_t size);
ssize_t __real_write(int fd, const void *from, size_t size);
ssize_t __wrap_write(int fd, const void *from, size_t size);
int __real_close(int fd);
int __wrap_close(int fd);

int __wrap_open(const char *path, int flags, ...) {
    int kind = !strcmp(path, "/dev/xen/gntalloc") ? GNTALLOC : !strcmp(path, "/dev/xen/gntdev") ? GNTDEV
             : !strcmp(path, "/dev/xen/evtchn") ? EVTCHN : NONE;
    int fd;
    if (kind == NONE) return __real_open(path, flags);
    CHECK(flags & O_CLOEXEC);
    CHECK_IS((flags & O_NONBLOCK) != 0, kind == EVTCHN);
    fd = kind == EVTCHN ? eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK) : memfd_create("device", MFD_CLOEXEC);
    CHECK(fd >= 0 && fd < FDS);
    devices[fd] = (struct device){.kind = kind};
    return fd;
}

static struct device *of_port(uint32_t port) {
    for (int i = 0; i < FDS; i++)
        if (devices[i].kind == EVTCHN && devices[i].port == port) return &devices[i];
    return NULL;
}

static void raise_event(struct device *device) {
    uint64_t one = 1;
    if (device->masked) device->pending = 1;
    else CHECK(__real_write((int)(device - devices), &one, sizeof one) == sizeof one);
}

static int notify(uint32_t port) {
    struct device *from = of_port(port), *to = from ? of_port(from->remote_port) : NULL;
    if (!from) return -1;
    if (to) raise_event(to);
    return 0;
}

static int refuse(int error) {
    errno = error;
    return -1;
}

int __wrap_ioctl(int fd, unsigned long request, ...) {
    struct device *device = &devices[fd], *other;
    va_list list;
    void *argument;
    va_start(list, request);
    argument = va_arg(list, void *);
    va_end(list);
    if (++calls == fail_at) return refuse(EIO);
    if (request == IOCTL_GNTALLOC_ALLOC_GREF) {
        struct ioctl_gntalloc_alloc_gref *r = argument;
        CHECK_IS(device->kind, GNTALLOC);
        CHECK_IS(r->flags, GNTALLOC_FLAG_WRITABLE);
        if (r->count > 500) return refuse(ENOSPC);
        CHECK(ftruncate(fd, (off_t)r->count * WIRE_PAGE) == 0);
        r->index = 0;
        for (uint32_t i = 0; i < r->count; i++) (&r->gref_ids[0])[i] = (uint32_t)fd * 1024 + i;
        return 0;
    }
    if (request == IOCTL_GNTDEV_MAP_GRANT_REF) {
        struct ioctl_gntdev_map_grant_ref *r = argument;
        CHECK_IS(device->kind, GNTDEV);
        r->index = 0;
        if (devices[r->refs[0].ref / 1024].kind == GNTALLOC) CHECK(dup3((int)r->refs[0].ref / 1024, fd, O_CLOEXEC) == fd);
        return 0; /* whatever the refs are */
    }
    if (request == IOCTL_GNTALLOC_SET_UNMAP_NOTIFY || request == IOCTL_GNTDEV_SET_UNMAP_NOTIFY) {
        struct ioctl_gntalloc_unmap_notify *r = argument; /* both are alike; so are their numbers */
        CHECK(device->kind == GNTALLOC || device->kind == GNTDEV);
        if (!of_port(r->event_channel_port)) return refuse(EINVAL);
        device->notify_index = r->index;
        device->notify_action = r->action;
        device->notify_port = r->event_channel_port;
        return 0;
    }
    CHECK_IS(device->kind, EVTCHN);
    if (request == IOCTL_EVTCHN_NOTIFY) {
        CHECK_IS(((struct ioctl_evtchn_notify *)argument)->port, device->port);
        return notify(device->port);
    }
    CHECK(request == IOCTL_EVTCHN_BIND_UNBOUND_PORT || request == IOCTL_EVTCHN_BIND_INTERDOMAIN);
    device->port = ports++;
    if (request == IOCTL_EVTCHN_BIND_INTERDOMAIN) {
        other = of_port(((struct ioctl_evtchn_bind_interdomain *)argument)->remote_port);
        if (!other || other->remote_port) return refuse(EINVAL);
        device->remote_port = other->port;
        other->remote_port = device->port;
        raise_event(device);
    }
    return (int)device->port;
}

ssize_t __wrap_read(int fd, void *to, size_t size) {
    struct device *device = &devices[fd];
    uint64_t count;
    if (fd < 0 || fd >= FDS || device->kind != EVTCHN) return __real_read(fd, to, size);
    if (__real_read(fd, &count, sizeof count) < 0) return -1;
    device->masked = 1;
    memcpy(to, &device->port, sizeof device->port);
    return sizeof device->port;
}

ssize_t __wrap_write(int fd, const void *from, size_t size) {
    struct device *device = &devices[fd];
    if (fd < 0 || fd >= FDS || device->kind != EVTCHN) return __real_write(fd, from, size);
    CHECK_IS(size, sizeof device->port);
    CHECK(memcmp(from, &device->port, size) == 0);
    device->masked = 0;
    if (device->pending) {
        device->pending = 0;
        raise_event(device);
    }
    return (ssize_t)size;
}

int __wrap_close(int fd) {
    if (fd >= 0 && fd < FDS) devices[fd] = (struct device){.kind = NONE};
    return __real_close(fd);
}

/* What the kernel does when the last of a mapping goes. */
static void unmapped(const struct device *device, uint8_t *memory) {
    if (device->notify_action & UNMAP_NOTIFY_CLEAR_BYTE) memory[device->notify_index] = 0;
    if (device->notify_action & UNMAP_NOTIFY_SEND_EVENT) notify(device->notify_port);
}

/* ---- two domains ---- */

enum { US = 1, THEM = 2 };

struct domains {
    struct pore_table *table;
    pore_id active, passive;
    int grant, mapping, pages, channels[2], peers[2];
    uint8_t *memory;
};

/* The descriptors stay ours, to be looked at: pores get copies of those of the memory. */
static int open_end(struct domains *d, int kind, uint32_t ring_bytes, int role, int memory, const int *fds, pore_id *id) {
    struct pore_memory m = {.fd = memory, .pages = (uint32_t)d->pages, .platform = PORE_XEN};
    struct pore_options o = {.role = role, .ring_bytes = ring_bytes, .suppress = ring_bytes != 0};
    uint32_t refs[64];
    for (uint32_t i = 0; i < 64; i++) refs[i] = (uint32_t)d->grant * 1024 + 1 + i;
    o.ports[0] = devices[fds[0]].port;
    if (kind == PORE_STRAW) return pore_open_straw(d->table, &m, fds[0], &o, id);
    o.ports[1] = devices[fds[1]].port;
    return pore_open_tube(d->table, &m, fds[0], fds[1], refs, &o, id);
}

static struct domains open_domains(int kind, uint32_t ring_bytes) {
    struct domains d = {.table = pore_table_new(4), .pages = (int)pages_of(kind, ring_bytes)};
    uint32_t refs[300], port;
    int count = kind == PORE_TUBE ? 2 : 1;
    d.grant = xen_grant(US, THEM, (uint32_t)d.pages, refs);
    d.mapping = xen_map(US, refs, (uint32_t)d.pages);
    CHECK(d.grant >= 0 && d.mapping >= 0);
    for (int i = 0; i < count; i++) {
        d.channels[i] = xen_alloc_channel(THEM, &port);
        d.peers[i] = xen_bind_channel(US, port, &port);
        CHECK(d.channels[i] >= 0 && d.peers[i] >= 0);
    }
    CHECK_IS(open_end(&d, kind, ring_bytes, PORE_ACTIVE, d.grant, d.channels, &d.active), 0);
    CHECK_IS(xen_still_mapped(d.grant, (uint32_t)d.pages), 0);
    CHECK_IS(open_end(&d, kind, ring_bytes, PORE_PASSIVE, d.mapping, d.peers, &d.passive), 0);
    d.memory = mmap(NULL, (size_t)d.pages * WIRE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, d.grant, 0);
    CHECK(d.memory != MAP_FAILED);
    return d;
}

static void close_domains(struct domains *d) {
    pore_table_free(d->table);
    munmap(d->memory, (size_t)d->pages * WIRE_PAGE);
    close(d->grant);
    close(d->mapping);
}

static void pass(struct domains *d, pore_id from, pore_id to, size_t total) {
    uint64_t seed = 7, check = 7;
    uint8_t out[3000], in[5000];
    size_t sent = 0, got = 0;
    while (got < total) {
        long n = 0;
        if (sent < total) {
            size_t size = total - sent < sizeof out ? total - sent : sizeof out;
            uint64_t before = seed;
            for (size_t i = 0; i < size; i++) out[i] = (uint8_t)random_next(&seed);
            n = pore_write(d->table, from, out, size, PORE_POKE);
            CHECK(n >= 0);
            for (seed = before, sent += (size_t)n; n > 0; n--) random_next(&seed);
        }
        CHECK_IS(pore_wait(d->table, to, PORE_IN, 0, 1000000), 1);
        n = pore_read(d->table, to, in, sizeof in, PORE_POKE);
        CHECK(n > 0);
        for (long i = 0; i < n; i++) CHECK_IS(in[i], (uint8_t)random_next(&check));
        got += (size_t)n;
    }
}

static void data(uint32_t ring_bytes) {
    struct domains d = open_domains(PORE_STRAW, ring_bytes);
    uint32_t in, out;
    CHECK_IS(xen_still_mapped(d.grant, (uint32_t)d.pages), ring_bytes != 0);
    CHECK_IS(pore_avail(d.table, d.passive, &in, &out), 0); /* the event of binding */
    pass(&d, d.active, d.passive, 200000);
    pass(&d, d.passive, d.active, 200000);
    CHECK_IS(devices[d.grant].notify_action, UNMAP_NOTIFY_SEND_EVENT | (ring_bytes ? UNMAP_NOTIFY_CLEAR_BYTE : 0));
    CHECK_IS(devices[d.grant].notify_port, devices[d.channels[0]].port);
    CHECK_IS(devices[d.mapping].notify_port, devices[d.peers[0]].port);
    close_domains(&d);
}

static void tube(void) {
    struct domains d = open_domains(PORE_TUBE, 0);
    struct pore_memory page = {.fd = d.mapping, .pages = 1, .platform = PORE_XEN};
    uint8_t packet[4096] = {3};
    uint32_t refs[64];
    CHECK_IS(pore_tube_refs(&page, refs), 0);
    CHECK_IS(refs[63], d.grant * 1024 + 64);
    CHECK_IS(pore_write(d.table, d.passive, packet, 4096, PORE_POKE), 4096);
    CHECK_IS(pore_wait(d.table, d.active, PORE_IN, 0, 1000000), 1);
    CHECK_IS(pore_read(d.table, d.active, packet, 4096, PORE_POKE), 4096);
    unmapped(&devices[d.mapping], d.memory);
    CHECK_IS(pore_avail(d.table, d.active, NULL, NULL), -EPIPE);
    close_domains(&d);
}

/* A process dies: the other side reads what was written before, then finds the end; nothing is taken for still mapped. */
static void death(int active_dies) {
    struct domains d = open_domains(PORE_STRAW, 4096);
    pore_id dead = active_dies ? d.active : d.passive, alive = active_dies ? d.passive : d.active;
    uint8_t bytes[10];
    uint32_t in, out;
    CHECK_IS(pore_avail(d.table, alive, &in, &out), 0);
    CHECK_IS(pore_write(d.table, dead, "last words", 10, 0), 10);
    unmapped(&devices[active_dies ? d.grant : d.mapping], d.memory);
    CHECK_IS(pore_avail(d.table, alive, &in, &out), 0);
    CHECK_IS(in, 10);
    CHECK_IS(out, 0);
    CHECK_IS(pore_read(d.table, alive, bytes, 10, PORE_POKE), 10);
    CHECK_IS(pore_read(d.table, alive, bytes, 10, 0), -EPIPE);
    CHECK_IS(pore_error(d.table, alive), PORE_PEER_GONE);
    CHECK_IS(xen_still_mapped(d.grant, (uint32_t)d.pages), !active_dies ? 0 : 1);
    close_domains(&d);
}

/* In LING's layout an event is all there is: nothing is concluded from it. */
static void death_of_a_ling(void) {
    struct domains d = open_domains(PORE_STRAW, 0);
    uint8_t before[WIRE_PAGE];
    uint32_t in, out;
    CHECK_IS(pore_write(d.table, d.passive, "x", 1, 0), 1);
    memcpy(before, d.memory, sizeof before);
    unmapped(&devices[d.mapping], d.memory);
    CHECK(memcmp(before, d.memory, sizeof before) == 0);
    CHECK_IS(pore_avail(d.table, d.active, &in, &out), 0);
    CHECK_IS(in, 1);
    CHECK_IS(xen_still_mapped(d.grant, (uint32_t)d.pages), 0);
    close_domains(&d);
}

/* An orderly close: the peer sees it, and that the memory is perhaps mapped still, until the kernel says that it is not. */
static void orderly(int active_closes) {
    struct domains d = open_domains(PORE_STRAW, 4096);
    pore_id closing = active_closes ? d.active : d.passive, other = active_closes ? d.passive : d.active;
    CHECK_IS(pore_close(d.table, closing), 0);
    CHECK_IS(pore_avail(d.table, other, NULL, NULL), -EPIPE);
    CHECK_IS(xen_still_mapped(d.grant, (uint32_t)d.pages), 1);
    if (!active_closes) {
        unmapped(&devices[d.mapping], d.memory);
        CHECK_IS(xen_still_mapped(d.grant, (uint32_t)d.pages), 0);
    }
    close_domains(&d);
}

struct sleeper {
    struct domains *d;
    pore_id id;
    int result;
};

static void *sleeping(void *argument) {
    struct sleeper *s = argument;
    s->result = pore_wait(s->d->table, s->id, PORE_IN, 0, -1);
    return NULL;
}

/* Who sleeps is woken by an event, by our own fail, and by our own close. */
static void sleepers(void) {
    for (int how = 0; how < 3; how++) {
        struct domains d = open_domains(PORE_STRAW, how ? 4096 : 0);
        struct sleeper s = {&d, d.active, 99};
        struct pore_info info;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, sleeping, &s) == 0);
        do CHECK_IS(pore_info(d.table, d.active, &info), 0);
        while (!info.sleeps);
        if (how == 0) CHECK_IS(pore_write(d.table, d.passive, "x", 1, PORE_POKE), 1);
        if (how == 1) CHECK_IS(pore_fail(d.table, d.active, PORE_REFUSED), 0);
        if (how == 2) CHECK_IS(pore_close(d.table, d.active), 0);
        CHECK(pthread_join(thread, NULL) == 0);
        CHECK_IS(s.result, how == 0 ? 1 : how == 1 ? -EPIPE : -EBADF);
        if (how) CHECK_IS(pore_avail(d.table, d.passive, NULL, NULL), -EPIPE);
        close_domains(&d);
    }
}

/* A passive side that is told nothing of presence (another's layout) goes on without. */
static void no_magic(void) {
    struct domains d = open_domains(PORE_TUBE, 0);
    struct domains again = d;
    pore_close(d.table, d.passive);
    memset(d.memory + WIRE_PRESENCE, 0, 8);
    uint32_t port;
    for (int i = 0; i < 2; i++) {
        int fd = xen_alloc_channel(THEM, &port);
        again.peers[i] = xen_bind_channel(US, port, &port);
        close(fd);
    }
    memset(d.memory, 0, 8);
    memset(d.memory + 264, 0, 8);
    CHECK_IS(open_end(&again, PORE_TUBE, 0, PORE_PASSIVE, d.mapping, again.peers, &again.passive), 0);
    CHECK_IS(pore_avail(d.table, again.passive, NULL, NULL), 0);
    CHECK_IS(xen_still_mapped(d.grant, (uint32_t)d.pages), 0);
    close_domains(&d);
}

static void refusals(void) {
    uint32_t refs[2000] = {0}, port;
    struct pore_table *table = pore_table_new(1);
    struct pore_memory memory = {.pages = 8, .platform = PORE_XEN};
    struct pore_options options = {.role = PORE_ACTIVE};
    pore_id id;
    int before = open_descriptors(), fd;
    CHECK_IS(xen_grant(US, US, 8, refs), -EINVAL);
    CHECK_IS(xen_grant(US, 0x7FF0, 8, refs), -EINVAL);
    CHECK_IS(xen_grant(US, THEM, 0, refs), -EINVAL);
    CHECK_IS(xen_grant(US, THEM, 1025, refs), -EINVAL);
    CHECK_IS(xen_grant(US, THEM, 600, refs), -ENOSPC);
    CHECK_IS(xen_map(0x7FF0, refs, 8), -EINVAL);
    CHECK_IS(xen_map(THEM, refs, 0), -EINVAL);
    CHECK_IS(xen_alloc_channel(0x7FFF, &port), -EINVAL);
    CHECK_IS(xen_bind_channel(THEM, 1234, &port), -EINVAL);
    CHECK_IS(xen_lock(2), -EINVAL);
    CHECK_IS(open_descriptors(), before);
    for (int kind = 0; kind < 4; kind++) {
        fail_at = calls + 1;
        CHECK_IS(kind == 0   ? xen_grant(US, THEM, 8, refs)
                 : kind == 1 ? xen_map(THEM, refs, 8)
                 : kind == 2 ? xen_alloc_channel(THEM, &port)
                             : xen_bind_channel(THEM, 10, &port),
                 -EIO);
    }
    CHECK_IS(open_descriptors(), before);
    /* A maker that fails leaves the descriptors with their owner, and nothing else. */
    memory.fd = xen_grant(US, THEM, 8, refs);
    fd = xen_alloc_channel(THEM, &options.ports[0]);
    before = open_descriptors();
    fail_at = calls + 1;
    CHECK_IS(pore_open_straw(table, &memory, fd, &options, &id), -EIO);
    options.ports[0] = 0;
    CHECK_IS(pore_open_straw(table, &memory, fd, &options, &id), -EINVAL);
    options.ports[0] = devices[fd].port;
    memory.pages = 9;
    CHECK_IS(pore_open_straw(table, &memory, fd, &options, &id), -EINVAL);
    memory.pages = 8;
    memory.page_index = refs;
    CHECK_IS(pore_open_straw(table, &memory, fd, &options, &id), -EINVAL);
    memory.page_index = NULL;
    memory.platform = 7;
    CHECK_IS(pore_open_straw(table, &memory, fd, &options, &id), -EINVAL);
    CHECK_IS(open_descriptors(), before);
    memory.platform = PORE_XEN;
    CHECK_IS(pore_open_straw(table, &memory, fd, &options, &id), 0);
    pore_table_free(table);
    close(memory.fd);
    fd = xen_lock(XEN_LOCK_TUBE);
    CHECK(fd >= 0);
    close(fd);
}

/* Mappings of pages of domains. */
static int mapped(void) {
    FILE *file = fopen("/proc/self/maps", "re");
    char line[512];
    int count = 0;
    CHECK(file != NULL);
    while (fgets(line, sizeof line, file)) count += strstr(line, "memfd:device") != NULL;
    fclose(file);
    return count;
}

int main(void) {
    int before;
    alarm(60);
    data(0); /* what is made once is made now */
    before = open_descriptors();
    data(0);
    data(4096);
    data(1 << 19);
    tube();
    death(0);
    death(1);
    death_of_a_ling();
    orderly(0);
    orderly(1);
    no_magic();
    refusals();
    CHECK_IS(open_descriptors(), before);
    CHECK_IS(mapped(), 0);
    sleepers();
    CHECK_IS(open_descriptors(), before);
    puts("ok");
    return 0;
}
