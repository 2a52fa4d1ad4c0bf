/* The local backend's memory: pages of a sealed memfd, in the order in which they were asked for. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "core.h"

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
