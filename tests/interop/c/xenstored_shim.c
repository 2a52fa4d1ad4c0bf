/* Lets Debian's xenstored run where there is no Xen, as the oracle of test_xenstored_oracle.py.
 *
 * Preloaded, it stands in for the few functions of Xen's libraries that xenstored calls. In the folder SHIM_DIR:
 * ring-N is the shared page of domain N (the domain exists if it is there), evtchn a fifo that wakes xenstored (one
 * u32, the port), xsd_port the port of domain 0. Its clock runs fast, so that no domain is slowed down by the credits
 * for writes. The prototypes are those of Xen's public headers, with structs reduced to what is used.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096
#define TICK_NS 50000000L

static int handle;

static const char *in_dir(char *buffer, size_t size, const char *name)
{
    const char *dir = getenv("SHIM_DIR");
    snprintf(buffer, size, "%s/%s", dir ? dir : ".", name);
    return buffer;
}

static int real_open(const char *path, int flags, int mode)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}

int open(const char *path, int flags, ...)
{
    char buffer[512];
    int mode = 0;

    if (flags & O_CREAT) {
        va_list args;
        va_start(args, flags);
        mode = va_arg(args, int);
        va_end(args);
    }
    if (!strcmp(path, "/proc/xen/xsd_port"))
        path = in_dir(buffer, sizeof(buffer), "xsd_port");
    else if (!strcmp(path, "/proc/xen/xsd_kva") || !strcmp(path, "/dev/xen/xsd_kva"))
        path = in_dir(buffer, sizeof(buffer), "ring-0");
    return real_open(path, flags, mode);
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    static long ticks;
    (void)clock;
    ticks++;
    now->tv_sec = 1000 + ticks / (1000000000L / TICK_NS);
    now->tv_nsec = ticks % (1000000000L / TICK_NS) * TICK_NS;
    return 0;
}

/* ── event channels ── */

static int evtchn = -1;

void *xenevtchn_open(void *logger, unsigned int flags)
{
    char buffer[512];
    (void)logger, (void)flags;
    evtchn = real_open(in_dir(buffer, sizeof(buffer), "evtchn"), O_RDWR | O_CLOEXEC, 0);
    return evtchn < 0 ? NULL : &handle;
}

void *xenevtchn_fdopen(void *logger, int fd, unsigned int flags)
{
    (void)fd;
    return xenevtchn_open(logger, flags);
}

int xenevtchn_fd(void *xce)
{
    (void)xce;
    return evtchn;
}

int xenevtchn_pending(void *xce)
{
    uint32_t port;
    (void)xce;
    return read(evtchn, &port, sizeof(port)) == sizeof(port) ? (int)port : -1;
}

int xenevtchn_unmask(void *xce, uint32_t port) { (void)xce, (void)port; return 0; }
int xenevtchn_notify(void *xce, uint32_t port) { (void)xce, (void)port; return 0; }
int xenevtchn_unbind(void *xce, uint32_t port) { (void)xce, (void)port; return 0; }
int xenevtchn_bind_virq(void *xce, unsigned int virq) { (void)xce, (void)virq; return 1; }
int xenevtchn_bind_interdomain(void *xce, uint32_t domid, uint32_t port)
{
    (void)xce, (void)port;
    return (int)domid + 100;
}

/* ── grants ── */

void *xengnttab_open(void *logger, unsigned int flags) { (void)logger, (void)flags; return &handle; }
int xengnttab_close(void *xgt) { (void)xgt; return 0; }
int xengnttab_set_max_grants(void *xgt, uint32_t count) { (void)xgt, (void)count; return 0; }
int xengnttab_unmap(void *xgt, void *start, uint32_t count) { (void)xgt; return munmap(start, count * PAGE); }

static int open_ring(uint32_t domid)
{
    char name[32], buffer[512];
    snprintf(name, sizeof(name), "ring-%u", domid);
    return real_open(in_dir(buffer, sizeof(buffer), name), O_RDWR | O_CLOEXEC, 0);
}

void *xengnttab_map_grant_ref(void *xgt, uint32_t domid, uint32_t ref, int prot)
{
    int fd = open_ring(domid);
    void *page;
    (void)xgt, (void)ref;
    if (fd < 0)
        return NULL;
    page = mmap(NULL, PAGE, prot, MAP_SHARED, fd, 0);
    close(fd);
    return page == MAP_FAILED ? NULL : page;
}

/* ── domains ── */

void *xc_interface_open(void *logger, void *other, unsigned int flags)
{
    (void)logger, (void)other, (void)flags;
    return &handle;
}
int xc_interface_close(void *xch) { (void)xch; return 0; }

struct dominfo { uint32_t domid, ssidref, state; };

int xc_domain_getinfo(void *xch, uint32_t first, unsigned int most, struct dominfo *info)
{
    int fd = open_ring(first);
    (void)xch, (void)most;
    if (fd < 0)
        return 0;
    close(fd);
    memset(info, 0, sizeof(*info)); /* neither dying nor shut down */
    info->domid = first;
    return 1;
}
