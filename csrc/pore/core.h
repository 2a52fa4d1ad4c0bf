/* What the files of the pores share: a pore inside, its locks, and the seam below it (backend).
 *
 * Locks of one pore, in this order: in.lock, out.lock, event.lock. Reading holds in.lock, writing out.lock, so both go on at
 * once; each lock guards a copy of the id, so that no call can enter a pore that is closed. The table's lock is taken last.
 */
#ifndef CORE_H
#define CORE_H

#include <pthread.h>

#include "../include/pore.h"
#include "../include/pore_wire.h"
#include "ring.h"

struct pore;

/* ---- the seam: what a backend does for a pore. local (channel.c), Xen (xen.c) ---- */

struct channel;

struct pore_backend {
    int (*take)(struct channel *channel, int fd, uint32_t port); /* checks a descriptor; it stays the caller's until the pore is open */
    void (*drop)(struct channel *channel);                       /* undoes take: no pore was made of it */
    int (*map)(const struct pore_memory *memory, uint32_t pages, void **base);
    int (*arm)(struct pore *pore, const struct pore_memory *memory); /* laid out: who tells the peer when we die? */
    int (*poke)(struct channel *channel);  /* 0, or -EPIPE: the peer is gone. Never blocks */
    int (*drain)(struct channel *channel); /* takes pending pokes: 1 there were some, 0 none, -EPIPE: gone */
    int (*sleep)(struct channel *channel); /* until there are some, and takes them: 1, -EPIPE, -EINTR; 2: there are, drain */
    void (*hang_up)(struct channel *channel); /* the peer and our sleepers see the end; the descriptor stays */
    void (*close)(struct channel *channel);
    void (*unmap)(struct channel *channel, void *base, size_t bytes); /* channel: NULL before there is one */
};

extern const struct pore_backend pore_local_backend, pore_xen_backend;

struct channel {
    int fd;
    int stream; /* local: SOCK_STREAM */
    int wake;   /* readable once we have hung up; -1: the descriptor itself is */
    uint32_t port;
    ring_byte *ours, *theirs; /* Xen: who is there (wire_presence); NULL: nobody says */
};

/* Maps exactly `pages` pages of a sealed memfd. */
int memory_map(const struct pore_memory *memory, uint32_t pages, void **base);

/* ---- a pore inside ---- */

/* What offering our cpu has taught (wait.c). */
struct offer {
    bool first;        /* met the last time: before spinning */
    uint32_t rest;     /* waits until the next one, when it came back late */
    uint32_t interval; /* the rest after the next late one */
    uint32_t on_time;  /* met since the last late one */
};

/* What waiting has taught. */
struct spin {
    uint32_t misses;   /* in a row */
    uint32_t rest;     /* waits until the next try, when spinning has not paid */
    uint32_t interval; /* the rest after the next failed try */
    uint32_t trial;    /* spins that may still be long, since a rest */
    struct offer offer;
    uint64_t spins, hits, sleeps;
};

/* One direction. */
struct side {
    pthread_mutex_t lock;
    pore_id id; /* 0: closed */
    int reason; /* enum pore_reason; the first stays */
    struct ring ring;
    struct channel *channel; /* where the peer is told of our progress in this direction */
    uint32_t wish; /* producer: slots that somebody waits for; 0 none */
    struct wire_slot *slots; /* tube */
    struct spin spin;
    uint64_t pokes, spared;
};

/* Who sleeps, and who polls for all of them. */
struct event {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    pore_id id;
    uint32_t waiters; /* threads inside pore_wait: the mapping stays until they are out */
    uint32_t drains;  /* changes with every drain: a look that is older is stale */
    int polling;      /* one of them polls; the others wait for `changed` */
    uint64_t irqs;
};

struct pore {
    struct side in, out;
    struct event event;
    /* constant while open */
    const struct pore_backend *backend;
    int kind, role, spin_us, suppress;
    uint64_t owner;
    struct channel channels[2];
    int channel_count;
    int fd; /* channels[0].fd, or an epoll of all that may become readable */
    void *base;
    uint32_t pages;
    void (*destroy)(void *context);
    void *context;
    /* the table's */
    uint32_t index, generation, next_free;
    int used;
};

struct pore_table {
    pthread_mutex_t lock;
    uint32_t capacity, high, free, count; /* high: slots ever used; free: index + 1 */
    struct pore pores[];
};

/* registry.c */
struct pore *table_find(struct pore_table *table, pore_id id); /* the slot; whether it is this pore the locks' ids tell */
int table_take(struct pore_table *table, struct pore **pore);  /* a slot that nobody knows of; -EMFILE */
void table_give_back(struct pore_table *table, struct pore *pore);
pore_id table_publish(struct pore_table *table, struct pore *pore);
void pore_fail_with(struct pore *pore, pore_id id, int reason); /* no lock held */

/* pore.c */
int reason_error(int reason); /* the -errno that a reason means */
long take_frames(struct pore_inbox *inbox, int flags); /* pore_take_frames with these flags */

/* wait.c */
int event_drain(struct pore *pore, pore_id id); /* as backend.drain; fails the pore when the peer is gone */

#endif
