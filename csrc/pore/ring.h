/* One direction of a pore seen from one side: the data path. All atomic operations of the pores are in this file.
 *
 * The peer's words are hostile. Each is read once per look, checked against what an honest peer could have written since
 * the last look, and only our private copies are used to reach memory.
 */
#ifndef RING_H
#define RING_H

#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef _Atomic(uint32_t) ring_word;
typedef _Atomic(uint8_t) ring_byte;
_Static_assert(sizeof(ring_word) == 4 && _Alignof(ring_word) == 4 && ATOMIC_INT_LOCK_FREE == 2, "words in shared memory");

struct ring {
    ring_word *ours;   /* the index that only we write */
    ring_word *theirs; /* the index that only the peer writes */
    ring_word *our_wish;   /* what we wait for; NULL: the peer pokes always */
    ring_word *their_wish; /* what the peer waits for; NULL: poke always */
    uint8_t *data;
    uint32_t size;   /* bytes of data */
    uint32_t most;   /* bytes that can be unread at a time: size, or size - 1 when indexes are wrapped */
    uint32_t modulo; /* indexes are in [0, modulo); 0: they run through 2^32 and size is a power of two */
    uint32_t index;  /* our private copy of *ours */
    uint32_t seen;   /* *theirs at the last look */
    uint32_t known;  /* consumer: unread bytes, producer: free bytes, as far as we have looked */
    bool consumer;
    bool told;       /* nothing was published since the last poke */
    uint64_t total;
};

/* ---- the words ---- */

/* Acquire: what the peer wrote before it published this index is ours to see after. */
static inline uint32_t ring_load_index(ring_word *word) { return atomic_load_explicit(word, memory_order_acquire); }

/* Release: the data is written (or taken) /then/ the index is published. */
static inline void ring_store_index(ring_word *word, uint32_t value) {
    atomic_store_explicit(word, value, memory_order_release);
}

/* Acquire and release: what a side wrote before it said that it is over is there to be read. */
static inline uint8_t ring_load_byte(ring_byte *byte) { return atomic_load_explicit(byte, memory_order_acquire); }
static inline void ring_store_byte(ring_byte *byte, uint8_t value) {
    atomic_store_explicit(byte, value, memory_order_release);
}

/* Relaxed: nothing depends on it yet; the memory is given to the peer by other means. */
static inline void ring_store_first(ring_word *word, uint32_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* Sequentially consistent fence between "we publish" and "does the peer wait?", and between "we wait" and "is it there?":
 * of the two sides at least one sees the other's word, so no poke is lost. */
static inline void ring_fence(void) { atomic_thread_fence(memory_order_seq_cst); }

/* Relaxed: ordered by the fence before (notifier), or after (waiter). */
static inline uint32_t ring_load_wish(ring_word *word) { return atomic_load_explicit(word, memory_order_relaxed); }
static inline void ring_store_wish(ring_word *word, uint32_t value) {
    atomic_store_explicit(word, value, memory_order_relaxed);
}

/* Acquire-release: taken once, whatever the waiter does meanwhile; its next announcement is a new one. */
static inline uint32_t ring_take_wish(ring_word *word) {
    return atomic_exchange_explicit(word, 0, memory_order_acq_rel);
}

/* ---- looking ---- */

/* Looks at the peer's index. -EBADMSG: out of range, or it went backwards. */
static inline int ring_look(struct ring *r) {
    uint32_t theirs = ring_load_index(r->theirs), unread, now;
    uint32_t prod = r->consumer ? theirs : r->index, cons = r->consumer ? r->index : theirs;
    if (r->modulo) {
        if (theirs >= r->modulo) return -EBADMSG;
        unread = prod >= cons ? prod - cons : prod + r->modulo - cons;
    } else {
        unread = prod - cons;
    }
    if (unread > r->most) return -EBADMSG;
    now = r->consumer ? unread : r->most - unread;
    if (now < r->known) return -EBADMSG;
    r->seen = theirs;
    r->known = now;
    return 0;
}

/* Says that we wait for `wish` bytes (of data, of room), then looks again: either we see them now, or the peer sees our
 * wish. An earlier wish that the peer has not taken yet may be another thread's: the smaller one stands. */
static inline int ring_announce(struct ring *r, uint32_t wish) {
    uint32_t before;
    int error;
    if (!r->our_wish) return ring_look(r);
    before = ring_load_wish(r->our_wish);
    if (!before || wish < before) ring_store_wish(r->our_wish, wish);
    ring_fence();
    error = ring_look(r);
    if (!error && r->known >= wish && !before) ring_store_wish(r->our_wish, 0);
    return error;
}

/* ---- moving ---- */

static inline uint32_t ring_at(const struct ring *r, uint32_t index) {
    return r->modulo ? index : index & (r->size - 1);
}

static inline uint32_t ring_after(const struct ring *r, uint32_t index, uint32_t n) {
    if (!r->modulo) return index + n;
    return n < r->modulo - index ? index + n : index + n - r->modulo;
}

/* Publishes n bytes, which were copied before. */
static inline void ring_publish(struct ring *r, uint32_t n) {
    r->index = ring_after(r, r->index, n);
    r->known -= n;
    r->total += n;
    r->told = false;
    ring_store_index(r->ours, r->index);
}

/* Copies n <= known bytes out of the ring, the first `skip` of what is unread left aside. Publishes nothing. */
static inline void ring_copy_out(const struct ring *r, uint32_t skip, void *to, uint32_t n) {
    uint32_t at = ring_at(r, ring_after(r, r->index, skip)), first = r->size - at < n ? r->size - at : n;
    memcpy(to, r->data + at, first);
    if (n > first) memcpy((uint8_t *)to + first, r->data, n - first);
}

/* Copies n <= known - skip bytes into the ring, `skip` bytes after what is published. Publishes nothing. */
static inline void ring_copy_in(struct ring *r, uint32_t skip, const void *from, uint32_t n) {
    uint32_t at = ring_at(r, ring_after(r, r->index, skip)), first = r->size - at < n ? r->size - at : n;
    memcpy(r->data + at, from, first);
    if (n > first) memcpy(r->data, (const uint8_t *)from + first, n - first);
}

/* Is the peer to be poked? Takes its wish if so. Once per batch of publishes. */
static inline bool ring_must_poke(struct ring *r) {
    uint32_t wish;
    if (r->told) return false;
    r->told = true;
    if (!r->their_wish) return true;
    ring_fence();
    wish = ring_load_wish(r->their_wish);
    if (!wish) return false;
    /* A producer that waits for more room than a part of the ring is not woken for every byte: what is free is what it
     * would see. A wish beyond the ring is met by an empty one; when its index is bad we poke and find out later. */
    if (r->consumer && ring_look(r) == 0 && r->most - r->known < (wish < r->most ? wish : r->most)) return false;
    return ring_take_wish(r->their_wish) != 0;
}

#endif
