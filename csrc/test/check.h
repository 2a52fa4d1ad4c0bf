/* What the tests of pores share: sealed memory, pairs of pores, what this process has open. */
#ifndef CHECK_H
#define CHECK_H

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../include/pore.h"
#include "../include/pore_wire.h"
#include "must.h"

static inline int sealed_memory(uint32_t pages) {
    int fd = memfd_create("test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK(ftruncate(fd, (off_t)pages * WIRE_PAGE) == 0);
    CHECK(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0);
    return fd;
}

static inline void channel_pair(int ends[2]) {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0);
}

/* Two ends of one pore, and a third mapping to look at the memory or to scribble. */
struct pair {
    struct pore_table *table;
    pore_id active, passive;
    uint8_t *memory;
    uint32_t pages;
};

static inline uint32_t pages_of(int kind, uint32_t ring_bytes) {
    return kind == PORE_STRAW ? pore_straw_pages(ring_bytes) : kind == PORE_TUBE ? PORE_TUBE_PAGES : 1;
}

static inline int open_one(struct pore_table *table, int kind, int memory, const int channels[2],
                           const struct pore_options *options, pore_id *id) {
    struct pore_memory m = {.fd = memory, .pages = pages_of(kind, options->ring_bytes)};
    if (kind == PORE_STRAW) return pore_open_straw(table, &m, channels[0], options, id);
    if (kind == PORE_XENSTORE) return pore_open_xenstore(table, &m, channels[0], options, id);
    return pore_open_tube(table, &m, channels[0], channels[1], NULL, options, id);
}

static inline struct pair open_pair(int kind, uint32_t ring_bytes, int suppress, int spin_us) {
    struct pair p = {.table = pore_table_new(8), .pages = pages_of(kind, ring_bytes)};
    struct pore_options options = {.role = PORE_ACTIVE, .ring_bytes = ring_bytes, .suppress = suppress, .spin_us = spin_us};
    int first[2], second[2] = {-1, -1}, memory = sealed_memory(p.pages);
    channel_pair(first);
    if (kind == PORE_TUBE) channel_pair(second);
    CHECK(p.table != NULL);
    CHECK_IS(open_one(p.table, kind, memory, (int[]){first[0], second[0]}, &options, &p.active), 0);
    options.role = PORE_PASSIVE;
    CHECK_IS(open_one(p.table, kind, memory, (int[]){first[1], second[1]}, &options, &p.passive), 0);
    p.memory = mmap(NULL, (size_t)p.pages * WIRE_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    CHECK(p.memory != MAP_FAILED);
    close(memory);
    return p;
}

static inline void close_pair(struct pair *p) {
    munmap(p->memory, (size_t)p->pages * WIRE_PAGE);
    pore_table_free(p->table);
}

/* xorshift: the same bytes for the same seed everywhere. */
static inline uint64_t random_next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static inline int open_descriptors(void) {
    DIR *dir = opendir("/proc/self/fd");
    int count = 0;
    CHECK(dir != NULL);
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

static inline int mappings(void) {
    FILE *file = fopen("/proc/self/maps", "re");
    int count = 0, c;
    CHECK(file != NULL);
    while ((c = fgetc(file)) != EOF) count += c == '\n';
    fclose(file);
    return count;
}

#endif
