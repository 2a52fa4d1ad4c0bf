/* Replaces memory_map and munmap (linker: --wrap): both ends of a pore see the memory at one address, between guard pages.
 *
 * So TSan sees what both sides do to the same words, and a read or write beyond the memory dies at once.
 */
#ifndef ONE_ADDRESS_H
#define ONE_ADDRESS_H

#include "check.h"

#include <pthread.h>
#include <sys/stat.h>

int __wrap_memory_map(const struct pore_memory *memory, uint32_t pages, void **base);
int __wrap_munmap(void *base, size_t bytes);
int __real_munmap(void *base, size_t bytes);

enum { MAPPED_MAX = 64 };
static struct {
    ino_t inode;
    uint8_t *base;
    size_t bytes;
    int users;
} mapped[MAPPED_MAX];
static pthread_mutex_t mapped_lock = PTHREAD_MUTEX_INITIALIZER;

int __wrap_memory_map(const struct pore_memory *memory, uint32_t pages, void **base) {
    size_t bytes = (size_t)pages * WIRE_PAGE;
    struct stat status;
    int free = -1, error = 0;
    CHECK(fstat(memory->fd, &status) == 0);
    pthread_mutex_lock(&mapped_lock);
    for (int i = 0; i < MAPPED_MAX; i++) {
        if (mapped[i].users && mapped[i].inode == status.st_ino) {
            mapped[i].users++;
            *base = mapped[i].base;
            pthread_mutex_unlock(&mapped_lock);
            return 0;
        }
        if (!mapped[i].users && free < 0) free = i;
    }
    CHECK(free >= 0);
    uint8_t *at = mmap(NULL, bytes + 2 * WIRE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED);
    at += WIRE_PAGE;
    CHECK(mmap(at, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memory->fd, 0) == at);
    mapped[free].inode = status.st_ino;
    mapped[free].base = at;
    mapped[free].bytes = bytes;
    mapped[free].users = 1;
    *base = at;
    pthread_mutex_unlock(&mapped_lock);
    return error;
}

int __wrap_munmap(void *base, size_t bytes) {
    pthread_mutex_lock(&mapped_lock);
    for (int i = 0; i < MAPPED_MAX; i++) {
        if (!mapped[i].users || mapped[i].base != base) continue;
        CHECK(bytes == mapped[i].bytes);
        if (!--mapped[i].users) CHECK(__real_munmap((uint8_t *)base - WIRE_PAGE, bytes + 2 * WIRE_PAGE) == 0);
        pthread_mutex_unlock(&mapped_lock);
        return 0;
    }
    pthread_mutex_unlock(&mapped_lock);
    return __real_munmap(base, bytes);
}

#endif
