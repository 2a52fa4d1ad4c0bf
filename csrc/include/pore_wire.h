/* Shared memory of pores, byte by byte: layouts only, nothing that acts.
 *
 * Who reads these words must treat them as hostile; who writes them must keep indexes in range and monotone.
 * All words are little-endian on the machines that both sides of a pore share. Atomic access: ring.h only.
 */
#ifndef PORE_WIRE_H
#define PORE_WIRE_H

#include <assert.h>
#include <stddef.h>
#include <stdint.h>

#define WIRE_PAGE 4096u
#define WIRE_PRESENCE 1024u

/* 1. Straw as LING has it (core/arch/xen/include/pore.h): 8 pages. The active side granted them: it writes `output`
 * and reads `input`; the passive side the reverse. Indexes are wrapped into [0, STRAW_RING); equal is empty. */
#define STRAW_PAGES 8u
#define STRAW_RING (STRAW_PAGES / 2 * WIRE_PAGE - 8)

struct wire_straw {
    uint32_t in_prod, in_cons, out_cons, out_prod;
    uint8_t input[STRAW_RING], output[STRAW_RING];
};
static_assert(STRAW_RING == 16376, "LING's ring");
static_assert(offsetof(struct wire_straw, in_prod) == 0 && offsetof(struct wire_straw, in_cons) == 4, "LING's header");
static_assert(offsetof(struct wire_straw, out_cons) == 8 && offsetof(struct wire_straw, out_prod) == 12, "LING's header");
static_assert(offsetof(struct wire_straw, input) == 16, "LING's input");
static_assert(offsetof(struct wire_straw, output) == 16 + STRAW_RING, "LING's output");
static_assert(sizeof(struct wire_straw) == STRAW_PAGES * WIRE_PAGE, "LING's straw");

/* 2. Wide straw, between our own peers: one page of words, then input and output, each a power of two of bytes.
 * Indexes run freely through 2^32. A waiter writes its word and looks again; a notifier exchanges it for 0 and pokes.
 * Each word has a cache line: none is pulled away from the side that is working by a word that it does not need. */
#define WIDE_MAGIC 0x57525453u /* "STRW" */
#define WIDE_VERSION 1u
#define WIDE_RING_MIN WIRE_PAGE
#define WIDE_RING_MAX (1u << 20)
#define WIRE_LINE 64

struct wire_word {
    uint32_t value;
    uint8_t pad[WIRE_LINE - 4];
};

struct wire_direction {
    struct wire_word prod, cons;
    struct wire_word data_wanted;  /* by the consumer: 1 = poke me when there is data */
    struct wire_word space_wanted; /* by the producer: N = poke me when N bytes are free */
};

struct wire_wide {
    uint32_t magic, version, ring_bytes;
    uint8_t pad[WIRE_LINE - 12];
    struct wire_direction input, output;
};
static_assert(sizeof(struct wire_word) == WIRE_LINE, "a line each");
static_assert(offsetof(struct wire_wide, input) == 64 && offsetof(struct wire_wide, output) == 320, "wide header");
static_assert(sizeof(struct wire_wide) == 576 && sizeof(struct wire_wide) <= WIRE_PRESENCE, "wide header");

/* 3. XenStore's page (xen/include/public/io/xs_wire.h): a domain writes `req` and reads `rsp`. Indexes run freely. */
#define XENSTORE_RING 1024u

struct wire_xenstore {
    uint8_t req[XENSTORE_RING], rsp[XENSTORE_RING];
    uint32_t req_cons, req_prod, rsp_cons, rsp_prod;
};
static_assert(offsetof(struct wire_xenstore, req_cons) == 2048 && offsetof(struct wire_xenstore, req_prod) == 2052, "xs");
static_assert(offsetof(struct wire_xenstore, rsp_cons) == 2056 && offsetof(struct wire_xenstore, rsp_prod) == 2060, "xs");

/* 4. Tube (LING's core/include/tube.h): one page, and a buffer page per slot. The acceptor granted them all. The opener
 * sends in `tx`, the acceptor in `rx`. head = next to be read, tail = next to be written; equal is empty; one slot
 * stays unused. A slot's gref is written once by the acceptor. */
#define TUBE_SLOTS 32u
#define TUBE_PACKET WIRE_PAGE

struct wire_slot {
    uint32_t len, gref;
};

struct wire_tube_ring {
    uint32_t head, tail;
    struct wire_slot slots[TUBE_SLOTS];
};

struct wire_tube {
    struct wire_tube_ring tx, rx;
};
static_assert(offsetof(struct wire_tube_ring, slots) == 8, "LING's tube");
static_assert(offsetof(struct wire_tube, rx) == 264 && sizeof(struct wire_tube) == 528, "LING's tube");
static_assert(sizeof(struct wire_tube) <= WIRE_PRESENCE, "LING's tube");

/* 5. Who is there, on Xen, where a channel does not tell of its end: in the first page of a wide straw and of a tube, at
 * WIRE_PRESENCE. LING's straw has no byte to spare for it. The active side writes the magic; without it nothing of this
 * counts. Each side writes its own byte, and has its kernel clear it when nothing of it is mapped by that side any more. */
#define PRESENCE_MAGIC 0x45524548u /* "HERE" */
enum wire_presence_of {
    PRESENCE_UNMAPPED = 0,
    PRESENCE_HERE = 1,
    PRESENCE_NOT_YET = 2, /* the passive side's, as the active one lays it out */
    PRESENCE_OVER = 3     /* it has closed or failed the pore, and may still have it mapped */
};

struct wire_presence {
    uint32_t magic;
    uint8_t active, passive;
};

#endif
