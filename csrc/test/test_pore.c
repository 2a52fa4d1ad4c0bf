/* Unit tests of the pores: every kind, both roles, closing, hostile words, leaks. One thread. */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>

static uint32_t *word_at(struct pair *p, size_t offset) { return (uint32_t *)(void *)(p->memory + offset); }

/* Pokes that wait to be taken, by looking only. */
static int pending(struct pore_table *table, pore_id id) {
    char room[64];
    ssize_t n = recv(pore_fd(table, id), room, sizeof room, MSG_PEEK | MSG_DONTWAIT);
    return n < 0 ? 0 : (int)n;
}

static void straw_is_lings(void) {
    struct pair p = open_pair(PORE_STRAW, 0, 0, 0);
    struct wire_straw *s = (void *)p.memory;
    char got[64];
    CHECK_IS(pore_write(p.table, p.active, "hello", 5, 0), 5);
    CHECK_IS(s->out_prod, 5);
    CHECK(memcmp(s->output, "hello", 5) == 0);
    CHECK_IS(pore_read(p.table, p.passive, got, 2, 0), 2);
    CHECK_IS(s->out_cons, 2);
    CHECK_IS(pore_write(p.table, p.passive, "yes", 3, 0), 3);
    CHECK_IS(s->in_prod, 3);
    CHECK(memcmp(s->input, "yes", 3) == 0);
    CHECK_IS(pore_read(p.table, p.active, got, sizeof got, 0), 3);
    CHECK_IS(s->in_cons, 3);
    CHECK_IS(pore_read(p.table, p.active, got, sizeof got, 0), 0);
    close_pair(&p);
}

/* All sizes of rings: fill, wrap around in odd pieces, and every byte comes out in order. */
static void bytes_in_order(int kind, uint32_t ring_bytes) {
    struct pair p = open_pair(kind, ring_bytes, ring_bytes != 0, 0);
    struct pore_info info;
    uint8_t *chunk;
    uint64_t seed = 42 + ring_bytes, sent = 0, taken = 0, goal;
    CHECK_IS(pore_info(p.table, p.active, &info), 0);
    goal = (uint64_t)info.out_size * 7;
    chunk = malloc(info.out_size + 1);
    while (taken < goal) {
        size_t n = random_next(&seed) % (info.out_size + 1);
        long done;
        for (size_t i = 0; i < n; i++) chunk[i] = (uint8_t)((sent + i) * 7 >> 3);
        done = pore_write(p.table, p.active, chunk, n, 0);
        CHECK(done >= 0 && done <= (long)n);
        sent += (uint64_t)done;
        n = random_next(&seed) % (info.out_size + 1);
        done = pore_read(p.table, p.passive, chunk, n, 0);
        CHECK(done >= 0 && done <= (long)n);
        for (long i = 0; i < done; i++) CHECK_IS(chunk[i], (uint8_t)((taken + (uint64_t)i) * 7 >> 3));
        taken += (uint64_t)done;
        CHECK(sent - taken <= info.out_size);
    }
    free(chunk);
    close_pair(&p);
}

static void full_and_empty(int kind, uint32_t ring_bytes, uint32_t size) {
    struct pair p = open_pair(kind, ring_bytes, ring_bytes != 0, 0);
    uint8_t *data = calloc(1, size + 10);
    uint32_t in, out;
    CHECK_IS(pore_write(p.table, p.passive, data, size + 10, 0), size);
    CHECK_IS(pore_write(p.table, p.passive, data, 1, 0), 0);
    CHECK_IS(pore_slots(p.table, p.passive), 0);
    CHECK_IS(pore_avail(p.table, p.active, &in, &out), 0);
    CHECK_IS(in, size);
    CHECK_IS(out, size);
    CHECK_IS(pore_read(p.table, p.active, data, size + 10, 0), size);
    CHECK_IS(pore_read(p.table, p.active, data, 1, 0), 0);
    CHECK_IS(pore_slots(p.table, p.passive), size);
    CHECK_IS(pore_write(p.table, p.passive, NULL, 0, 0), 0);
    CHECK_IS(pore_read(p.table, p.active, NULL, 0, 0), 0);
    free(data);
    close_pair(&p);
}

static void frames(void) {
    struct pair p = open_pair(PORE_STRAW, 0, 0, 0);
    uint8_t data[20000] = {1, 2, 3}, got[20000];
    CHECK_IS(pore_write_frame(p.table, p.active, data, 3, 0), 7);
    CHECK_IS(pore_read(p.table, p.passive, got, sizeof got, 0), 7);
    CHECK(memcmp(got, "\0\0\0\3\1\2\3", 7) == 0);
    CHECK_IS(pore_write_frame(p.table, p.active, NULL, 0, 0), 4);
    CHECK_IS(pore_write_frame(p.table, p.active, data, STRAW_RING - 5, 0), 0);
    CHECK_IS(pore_read(p.table, p.passive, got, sizeof got, 0), 4);
    CHECK_IS(pore_write_frame(p.table, p.active, data, STRAW_RING - 5, 0), STRAW_RING - 1);
    CHECK_IS(pore_write_frame(p.table, p.active, data, STRAW_RING - 4, 0), -EMSGSIZE);
    CHECK_IS(pore_write_frame(p.table, p.active, data, SIZE_MAX, 0), -EMSGSIZE);
    close_pair(&p);
}

struct places {
    uint8_t bytes[64];
    uint32_t used, most;
};

static void *a_place(void *context, uint32_t size) {
    struct places *places = context;
    if (size > places->most - places->used) return NULL;
    places->used += size;
    return places->bytes + places->used - size;
}

/* Frames from and to wherever they are. */
static void parts_and_places(uint32_t ring_bytes) {
    struct pair p = open_pair(PORE_STRAW, ring_bytes, ring_bytes != 0, PORE_SPIN_DEFAULT);
    struct pore_part parts[] = {{"one", 3}, {"", 0}, {"three", 5}};
    struct places places = {.most = 6};
    uint32_t ends[8];
    struct pore_inbox inbox = {.table = p.table, .id = p.passive, .length = 1 << 20, .ends = ends, .count = 8,
                               .flags = PORE_POKE, .place = a_place, .context = &places};
    CHECK_IS(pore_drain_frames(&inbox), 0);
    CHECK_IS(pore_write_parts(p.table, p.active, parts, 3, PORE_POKE), 3);
    CHECK_IS(pore_drain_frames(&inbox), 2); /* no place for the third one: it stays */
    CHECK_IS(pore_take_frames(&inbox), -ENOMEM);
    places.most = sizeof places.bytes;
    CHECK_IS(pore_take_frames(&inbox), 1);
    CHECK(places.used == 8 && memcmp(places.bytes, "onethree", 8) == 0);
    CHECK_IS(pore_take_frames(&inbox), 0);
    CHECK_IS(pore_close(p.table, p.active), 0);
    CHECK_IS(pore_drain_frames(&inbox), -EPIPE);
    CHECK_IS(pore_close(p.table, p.passive), 0);
    CHECK_IS(pore_drain_frames(&inbox), -EBADF);
    close_pair(&p);
}

static void an_inbox(uint32_t ring_bytes) {
    struct pair p = open_pair(PORE_STRAW, ring_bytes, ring_bytes != 0, PORE_SPIN_DEFAULT);
    uint32_t same[] = {4, 4, 4}, other[] = {4, 0, 8}, ends[8];
    uint8_t got[64], part[] = {0, 0, 0, 2, 'y'};
    struct pore_inbox inbox = {.table = p.table, .id = p.passive, .to = got, .length = sizeof got, .ends = ends, .count = 8,
                               .flags = PORE_POKE, .timeout_us = 1000};
    CHECK_IS(pore_take_frames(&inbox), 0);
    CHECK_IS(pore_wait_frames(&inbox), 0);
    inbox.timeout_us = 0;
    CHECK_IS(pore_wait_frames(&inbox), 0);
    inbox.timeout_us = -1;
    CHECK_IS(pore_write_frames(p.table, p.active, "abcdefghijkl", same, 3, PORE_POKE), 3);
    CHECK_IS(pore_wait_frames(&inbox), 3);
    CHECK(inbox.same == 4 && ends[2] == 12 && memcmp(got, "abcdefghijkl", 12) == 0);
    CHECK_IS(pore_write_frames(p.table, p.active, "abcdefghijkl", other, 3, PORE_POKE), 3);
    CHECK_IS(pore_take_frames(&inbox), 3);
    CHECK(inbox.same == 0 && ends[0] == 4 && ends[1] == 4 && ends[2] == 12);
    CHECK_IS(pore_write_frame(p.table, p.active, "one", 3, PORE_POKE), 7);
    CHECK_IS(pore_take_frames(&inbox), 1);
    CHECK_IS(inbox.same, 3);
    CHECK_IS(pore_write(p.table, p.active, part, 5, PORE_POKE), 5);
    inbox.timeout_us = 1000;
    CHECK_IS(pore_wait_frames(&inbox), 0); /* a part is none */
    CHECK_IS(pore_write(p.table, p.active, "z", 1, PORE_POKE), 1);
    inbox.timeout_us = INT64_MAX;
    CHECK_IS(pore_wait_frames(&inbox), 1);
    CHECK(inbox.same == 2 && got[0] == 'y' && got[1] == 'z');
    inbox.length = 2;
    CHECK_IS(pore_write_frame(p.table, p.active, "last", 4, PORE_POKE), 8);
    CHECK_IS(pore_wait_frames(&inbox), -EMSGSIZE);
    CHECK_IS(ends[0], 4);
    inbox.length = 4;
    CHECK_IS(pore_close(p.table, p.active), 0);
    CHECK_IS(pore_wait_frames(&inbox), 1);
    CHECK_IS(pore_wait_frames(&inbox), -EPIPE);
    CHECK_IS(pore_close(p.table, p.passive), 0);
    CHECK_IS(pore_wait_frames(&inbox), -EBADF);
    pore_table_free(p.table);
}

static void many_frames(uint32_t ring_bytes) {
    struct pair p = open_pair(PORE_STRAW, ring_bytes, ring_bytes != 0, 0);
    uint32_t lengths[] = {3, 0, 5}, ends[8];
    uint8_t got[64], part[] = {0, 0, 0, 9, 1};
    CHECK_IS(pore_write_frames(p.table, p.active, "abcdefgh", lengths, 3, 0), 3);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 64, ends, 2, 0), 2);
    CHECK(ends[0] == 3 && ends[1] == 3 && memcmp(got, "abc", 3) == 0);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 4, ends, 8, 0), -EMSGSIZE);
    CHECK_IS(ends[0], 5);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 5, ends, 8, 0), 1);
    CHECK(memcmp(got, "defgh", 5) == 0);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 64, ends, 8, 0), 0);
    CHECK_IS(pore_write(p.table, p.active, part, 5, PORE_POKE), 5);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 64, ends, 8, 0), 0);
    CHECK_IS(pore_wait(p.table, p.passive, PORE_IN, 0, 0), 1);
    CHECK_IS(pore_wait(p.table, p.passive, PORE_MORE, 0, 0), 0);
    CHECK_IS(pore_avail(p.table, p.passive, NULL, NULL), 0);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 64, ends, 8, 0), 0);
    CHECK_IS(pore_write(p.table, p.active, "12345678", 8, PORE_POKE), 8);
    CHECK(pending(p.table, p.passive) > 0); /* a part was there: more of it pokes */
    CHECK_IS(pore_wait(p.table, p.passive, PORE_MORE, 0, -1), 1);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 64, ends, 8, 0), 1);
    CHECK(ends[0] == 9 && got[0] == 1 && got[8] == '8');
    CHECK_IS(pore_write(p.table, p.active, "\xff\xff\xff\xff", 4, 0), 4);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 64, ends, 8, 0), -EMSGSIZE);
    CHECK_IS(ends[0], 0xffffffff);
    CHECK_IS(pore_read_frames(p.table, p.passive, got, 64, NULL, 8, 0), -EINVAL);
    CHECK_IS(pore_write_frames(p.table, p.active, got, NULL, 8, 0), -EINVAL);
    close_pair(&p);
}

/* LING's peer is poked after every read and write, and not when there was nothing. */
static void pokes_of_a_ling_straw(void) {
    struct pair p = open_pair(PORE_STRAW, 0, 0, 0);
    char got[8];
    uint32_t in, out;
    CHECK_IS(pore_poke(p.table, p.active), 0);
    CHECK_IS(pore_write(p.table, p.active, "abc", 3, PORE_POKE), 3);
    CHECK_IS(pending(p.table, p.passive), 1);
    CHECK_IS(pore_poke(p.table, p.active), 0);
    CHECK_IS(pore_write(p.table, p.active, "abc", 3, 0), 3);
    CHECK_IS(pore_write(p.table, p.active, "abc", 3, 0), 3);
    CHECK_IS(pending(p.table, p.passive), 1);
    CHECK_IS(pore_poke(p.table, p.active), 1);
    CHECK_IS(pending(p.table, p.passive), 2);
    CHECK_IS(pore_avail(p.table, p.passive, &in, &out), 0);
    CHECK_IS(in, 9);
    CHECK_IS(pending(p.table, p.passive), 0);
    CHECK_IS(pore_read(p.table, p.passive, got, 5, PORE_POKE), 5);
    CHECK_IS(pending(p.table, p.active), 1);
    CHECK_IS(pore_read(p.table, p.passive, got, 5, PORE_POKE), 4);
    CHECK_IS(pore_read(p.table, p.passive, got, 5, PORE_POKE), 0);
    CHECK_IS(pending(p.table, p.active), 2);
    /* Read and written: one poke says both. */
    CHECK_IS(pore_write(p.table, p.active, "abc", 3, PORE_POKE), 3);
    CHECK_IS(pore_read(p.table, p.passive, got, 3, 0), 3);
    CHECK_IS(pore_write(p.table, p.passive, "abc", 3, 0), 3);
    CHECK_IS(pore_poke(p.table, p.passive), 1);
    CHECK_IS(pending(p.table, p.active), 3);
    /* A peer that never takes them: no more than the socket holds, and nothing blocks. */
    for (int i = 0; i < 5000; i++) {
        CHECK_IS(pore_write(p.table, p.active, "x", 1, PORE_POKE), 1);
        CHECK_IS(pore_read(p.table, p.passive, got, 8, 0) > 0, 1);
    }
    CHECK_IS(pore_avail(p.table, p.passive, &in, &out), 0);
    CHECK_IS(pending(p.table, p.passive), 0);
    close_pair(&p);
}

static void pokes_spared(void) {
    struct pair p = open_pair(PORE_STRAW, 4096, 1, 0);
    uint8_t data[5000] = {0};
    uint32_t in, out;
    struct pore_info info;
    CHECK_IS(pore_write(p.table, p.active, data, 10, PORE_POKE), 10);
    CHECK_IS(pending(p.table, p.passive), 0); /* it has not said that it waits */
    CHECK_IS(pore_read(p.table, p.passive, data, 100, PORE_POKE), 10);
    CHECK_IS(pore_read(p.table, p.passive, data, 100, PORE_POKE), 0); /* now it has */
    CHECK_IS(pore_write(p.table, p.active, data, 10, PORE_POKE), 10);
    CHECK_IS(pore_write(p.table, p.active, data, 10, PORE_POKE), 10);
    CHECK_IS(pending(p.table, p.passive), 1);
    CHECK_IS(pore_avail(p.table, p.passive, &in, &out), 0);
    CHECK_IS(in, 20);
    CHECK_IS(pore_read(p.table, p.passive, data, 100, 0), 20);
    /* The writer waits for room: poked when there is as much, not before. */
    CHECK_IS(pore_write(p.table, p.active, data, 4096, PORE_POKE), 4096);
    CHECK_IS(pore_notify_when(p.table, p.active, 3000), 0);
    CHECK_IS(pore_read(p.table, p.passive, data, 2999, PORE_POKE), 2999);
    CHECK_IS(pending(p.table, p.active), 0);
    CHECK_IS(pore_read(p.table, p.passive, data, 1, PORE_POKE), 1);
    CHECK_IS(pending(p.table, p.active), 1);
    CHECK_IS(pore_avail(p.table, p.active, &in, &out), 0);
    CHECK_IS(out, 3000);
    CHECK_IS(pore_notify_when(p.table, p.active, 3000), 1);
    CHECK_IS(pore_notify_when(p.table, p.active, 4097), -EINVAL);
    CHECK_IS(pore_info(p.table, p.active, &info), 0);
    CHECK(info.pokes_spared > 0 && info.suppress == 1);
    /* A wish beyond the ring (only a peer can write one) is met by an empty ring. */
    CHECK_IS(pore_read(p.table, p.passive, data, 5000, 0), 1096);
    ((struct wire_wide *)(void *)p.memory)->output.space_wanted.value = 1u << 31;
    CHECK_IS(pore_poke(p.table, p.passive), 1);
    close_pair(&p);
}

static void tube(void) {
    struct pair p = open_pair(PORE_TUBE, 0, 0, 0);
    struct wire_tube *t = (void *)p.memory;
    uint8_t data[5000] = {7}, got[5000];
    uint32_t in, out, refs[64];
    struct pore_info info;
    CHECK_IS(t->tx.slots[0].gref, 1);
    CHECK_IS(t->rx.slots[31].gref, 64);
    for (int i = 0; i < 31; i++) CHECK_IS(pore_write(p.table, p.passive, data, (size_t)i + 1, PORE_POKE), i + 1);
    CHECK_IS(pore_write(p.table, p.passive, data, 1, 0), 0);
    CHECK_IS(t->tx.tail, 31);
    CHECK_IS(t->tx.slots[30].len, 31);
    CHECK_IS(p.memory[WIRE_PAGE], 7);
    CHECK_IS(pore_avail(p.table, p.active, &in, &out), 0);
    CHECK_IS(in, 31);
    CHECK_IS(out, 31);
    CHECK_IS(pore_read(p.table, p.active, got, 0, 0), -EMSGSIZE);
    for (int i = 0; i < 31; i++) CHECK_IS(pore_read(p.table, p.active, got, sizeof got, PORE_POKE), i + 1);
    CHECK_IS(t->tx.head, 31);
    CHECK_IS(pore_read(p.table, p.active, got, sizeof got, 0), 0);
    CHECK_IS(pore_write(p.table, p.active, data, 4096, 0), 4096);
    CHECK_IS(p.memory[33 * WIRE_PAGE], 7);
    CHECK_IS(t->rx.tail, 1);
    CHECK_IS(pore_write(p.table, p.active, data, 4097, 0), -EMSGSIZE);
    CHECK_IS(pore_write(p.table, p.active, data, 0, 0), 0);
    CHECK_IS(pore_write_frame(p.table, p.active, data, 1, 0), -EINVAL);
    CHECK_IS(pore_poke(p.table, p.active), 1);
    CHECK_IS(pore_wait(p.table, p.passive, PORE_IN, 0, 0), 1);
    CHECK_IS(pore_info(p.table, p.passive, &info), 0);
    CHECK_IS(info.channels, 2);
    CHECK_IS(info.packet_max, 4096);
    for (int i = 0; i < 40; i++) {
        t->rx.slots[1].len = (uint32_t[]){0, 4097, 0xffffffff}[i % 3];
        CHECK_IS(pore_write(p.table, p.active, data, 1, 0) >= 0, 1);
        if (i == 31) break;
    }
    CHECK_IS(pore_read(p.table, p.passive, got, sizeof got, 0), 4096);
    t->rx.slots[1].len = 4097;
    CHECK_IS(pore_read(p.table, p.passive, got, sizeof got, 0), -EBADMSG);
    CHECK_IS(pore_error(p.table, p.passive), PORE_CORRUPT);
    close_pair(&p);
    (void)refs;
}

static void tube_references(void) {
    struct pore_table *table = pore_table_new(2);
    struct pore_options options = {.role = PORE_ACTIVE};
    uint32_t refs[64], read[64], index[PORE_TUBE_PAGES];
    int tx[2], rx[2], fd = sealed_memory(PORE_TUBE_PAGES);
    struct pore_memory memory = {.fd = fd, .pages = PORE_TUBE_PAGES}, page = {.fd = fd, .pages = 1, .page_index = index};
    pore_id a, b;
    channel_pair(tx);
    channel_pair(rx);
    for (uint32_t i = 0; i < 64; i++) refs[i] = 1000 + i;
    for (uint32_t i = 0; i < PORE_TUBE_PAGES; i++) index[i] = i;
    CHECK_IS(pore_open_tube(table, &memory, tx[0], rx[0], refs, &options, &a), 0);
    CHECK_IS(pore_tube_refs(&page, read), 0);
    CHECK(memcmp(refs, read, sizeof refs) == 0);
    options.role = PORE_PASSIVE;
    refs[5]++;
    CHECK_IS(pore_open_tube(table, &memory, tx[1], rx[1], refs, &options, &b), -EBADMSG);
    refs[5]--;
    CHECK_IS(pore_open_tube(table, &memory, tx[1], rx[1], refs, &options, &b), 0);
    pore_table_free(table);
    close(fd);
}

/* Every bad value of every index: a named error, the pore is failed, nothing more goes through, the peer sees the end. */
static void hostile(int kind, uint32_t ring_bytes, size_t prod, size_t cons, uint32_t bad) {
    for (int which = 0; which < 2; which++) {
        struct pair p = open_pair(kind, ring_bytes, ring_bytes != 0, 0);
        uint8_t data[100] = {0};
        uint32_t in, out;
        if (which) *word_at(&p, cons) = bad;
        else *word_at(&p, prod) = bad;
        if (which) CHECK_IS(pore_slots(p.table, p.active), -EBADMSG);
        else CHECK_IS(pore_read(p.table, p.active, data, sizeof data, 0), -EBADMSG);
        CHECK_IS(pore_error(p.table, p.active), PORE_CORRUPT);
        CHECK_IS(pore_write(p.table, p.active, data, sizeof data, 0), -EBADMSG);
        CHECK_IS(pore_read(p.table, p.active, data, sizeof data, 0), -EBADMSG);
        CHECK_IS(pore_avail(p.table, p.active, &in, &out), -EBADMSG);
        CHECK_IS(pore_wait(p.table, p.active, PORE_IN, 0, -1), -EBADMSG);
        CHECK_IS(pore_poke(p.table, p.active), -EBADMSG);
        CHECK_IS(pore_avail(p.table, p.passive, &in, &out), -EPIPE);
        CHECK_IS(pore_error(p.table, p.passive), PORE_PEER_GONE);
        CHECK_IS(pore_close(p.table, p.active), 0);
        CHECK_IS(pore_error(p.table, p.active), -EBADF);
        close_pair(&p);
    }
}

static void indexes_that_go_back(void) {
    struct pair p = open_pair(PORE_STRAW, 0, 0, 0);
    struct wire_straw *s = (void *)p.memory;
    char got[4];
    CHECK_IS(pore_write(p.table, p.passive, "abcdefgh", 8, 0), 8);
    CHECK_IS(pore_read(p.table, p.active, got, 2, 0), 2);
    s->in_prod = 4;
    CHECK_IS(pore_slots(p.table, p.active), STRAW_RING - 1);
    CHECK_IS(pore_avail(p.table, p.active, NULL, NULL), -EBADMSG);
    close_pair(&p);
}

/* Out of range, though its distance from ours is not. */
static void index_beyond_the_ring(void) {
    struct pair p = open_pair(PORE_STRAW, 0, 0, 0);
    struct wire_straw *s = (void *)p.memory;
    char got[100];
    CHECK_IS(pore_write(p.table, p.passive, "abcdefgh", 8, 0), 8);
    CHECK_IS(pore_read(p.table, p.active, got, 8, 0), 8);
    s->in_prod = STRAW_RING + 1;
    CHECK_IS(pore_read(p.table, p.active, got, 8, 0), -EBADMSG);
    close_pair(&p);
}

static void ids(void) {
    struct pair p = open_pair(PORE_STRAW, 0, 0, 0);
    struct pore_options options = {.role = PORE_ACTIVE, .owner = 7};
    int ends[2], memory = sealed_memory(8);
    pore_id id, old = p.active;
    char byte = 0;
    CHECK_IS(pore_table_count(p.table), 2);
    CHECK_IS(pore_close(p.table, old), 0);
    CHECK_IS(pore_close(p.table, old), -EBADF);
    channel_pair(ends);
    CHECK_IS(open_one(p.table, PORE_STRAW, memory, ends, &options, &id), 0);
    CHECK_IS((uint32_t)id, (uint32_t)old); /* the same slot */
    CHECK(id != old);
    CHECK_IS(pore_write(p.table, old, &byte, 1, 0), -EBADF);
    CHECK_IS(pore_write(p.table, id, &byte, 1, 0), 1);
    CHECK_IS(pore_read(p.table, 0, &byte, 1, 0), -EBADF);
    CHECK_IS(pore_read(p.table, id | 0xffffffff, &byte, 1, 0), -EBADF);
    CHECK_IS(pore_close_owned(p.table, 8), 0);
    CHECK_IS(pore_close_owned(p.table, 7), 1);
    CHECK_IS(pore_close(p.table, id), -EBADF);
    CHECK_IS(pore_table_count(p.table), 1);
    close(ends[1]);
    close(memory);
    close_pair(&p);
}

static void count_up(void *context) { ++*(int *)context; }

static void refused(void) {
    struct pore_table *table = pore_table_new(1);
    int calls = 0, ends[2], plain[2], memory = sealed_memory(8), unsealed = memfd_create("test", MFD_ALLOW_SEALING), one[2];
    struct pore_options options = {.role = PORE_ACTIVE, .destroy = count_up, .context = &calls};
    struct pore_memory m = {.fd = memory, .pages = 8};
    uint32_t index[8] = {7, 6, 5, 4, 3, 2, 1, 8};
    pore_id id;
    channel_pair(ends);
    CHECK(pipe(plain) == 0);
    CHECK(ftruncate(unsealed, 8 * WIRE_PAGE) == 0);
    CHECK(pore_table_new(0) == NULL);
    CHECK(pore_table_new(65537) == NULL);
    m.fd = unsealed;
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), -EPERM);
    m.fd = plain[0];
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), -EPERM);
    m.fd = -1;
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), -EBADF);
    m.fd = memory;
    m.pages = 7;
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), -EINVAL);
    m.pages = 8;
    m.page_index = index; /* page 8 of 8 */
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), -EINVAL);
    m.page_index = NULL;
    CHECK_IS(pore_open_straw(table, &m, plain[0], &options, &id), -ENOTSOCK);
    CHECK_IS(pore_open_straw(table, &m, -1, &options, &id), -EBADF);
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, one) == 0);
    CHECK_IS(pore_open_straw(table, &m, one[0], &options, &id), -EPROTOTYPE);
    options.role = 0;
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), -EINVAL);
    options.role = PORE_ACTIVE;
    options.ring_bytes = 5000;
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), -EINVAL);
    options.ring_bytes = 0;
    options.suppress = 1;
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), -EINVAL);
    options.suppress = 0;
    CHECK_IS(pore_table_count(table), 0);
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &id), 0);
    CHECK_IS(pore_open_straw(table, &m, ends[1], &options, &id), -EMFILE);
    CHECK_IS(calls, 0); /* what was refused is the caller's */
    pore_table_free(table);
    CHECK_IS(calls, 1);
    CHECK_IS(pore_straw_pages(0), 8);
    CHECK_IS(pore_straw_pages(4096), 3);
    CHECK_IS(pore_straw_pages(1 << 20), 513);
    CHECK_IS(pore_straw_pages(1 << 21), 0);
    CHECK_IS(pore_straw_pages(2048), 0);
    for (int i = 0; i < 2; i++) close(plain[i]), close(one[i]);
    close(ends[1]);
    close(memory);
    close(unsealed);
}

/* Pages in another order than in the memfd, and a passive side that finds what is not laid out for it. */
static void pages_in_any_order(void) {
    struct pore_table *table = pore_table_new(2);
    struct pore_options options = {.role = PORE_ACTIVE};
    uint32_t index[8] = {9, 10, 3, 2, 1, 0, 7, 8};
    int ends[2], fd = sealed_memory(11);
    struct pore_memory m = {.fd = fd, .pages = 8, .page_index = index};
    struct pore_info info;
    uint8_t *all, data[STRAW_RING], got[STRAW_RING];
    pore_id a, b;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)(i * 31 >> 4);
    channel_pair(ends);
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &a), 0);
    CHECK_IS(pore_write(table, a, data, 16000, 0), 16000);
    options.role = PORE_PASSIVE;
    CHECK_IS(pore_open_straw(table, &m, ends[1], &options, &b), 0);
    CHECK_IS(pore_read(table, b, got, sizeof got, 0), 16000);
    CHECK(memcmp(data, got, 16000) == 0);
    all = mmap(NULL, 11 * WIRE_PAGE, PROT_READ, MAP_SHARED, fd, 0);
    CHECK_IS(((uint32_t *)(void *)(all + 9 * WIRE_PAGE))[3], 16000);
    CHECK_IS(pore_close(table, b), 0);
    channel_pair(ends);
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &b), -EBADMSG); /* out_cons is not 0 */
    options.ring_bytes = 4096;
    options.suppress = 1;
    m.pages = 3;
    CHECK_IS(pore_open_straw(table, &m, ends[0], &options, &b), -EBADMSG); /* no wide straw */
    CHECK_IS(pore_info(table, a, &info), 0);
    CHECK_IS(info.pages, 8);
    munmap(all, 11 * WIRE_PAGE);
    close(ends[0]);
    close(ends[1]);
    close(fd);
    pore_table_free(table);
}

/* The peer goes: first what it had sent, then the end. */
static void last_bytes_first(int kind) {
    struct pair p = open_pair(kind, 0, 0, 0);
    char got[16];
    CHECK_IS(pore_write(p.table, p.active, "end", 3, 0), 3);
    CHECK_IS(pore_close(p.table, p.active), 0);
    CHECK_IS(pore_avail(p.table, p.passive, NULL, NULL), 0);
    CHECK_IS(pore_error(p.table, p.passive), PORE_PEER_GONE);
    CHECK_IS(pore_write(p.table, p.passive, "x", 1, 0), -EPIPE);
    CHECK_IS(pore_wait(p.table, p.passive, PORE_IN, 0, -1), 1);
    CHECK_IS(pore_wait(p.table, p.passive, PORE_OUT, 1, -1), -EPIPE);
    CHECK_IS(pore_read(p.table, p.passive, got, sizeof got, 0), 3);
    CHECK_IS(pore_read(p.table, p.passive, got, sizeof got, 0), -EPIPE);
    CHECK_IS(pore_wait(p.table, p.passive, PORE_IN, 0, -1), -EPIPE);
    CHECK_IS(pore_avail(p.table, p.passive, NULL, NULL), -EPIPE);
    close_pair(&p);
}

static void failed_from_above(void) {
    struct pair p = open_pair(PORE_STRAW, 0, 0, 0);
    char got[16];
    CHECK_IS(pore_write(p.table, p.active, "end", 3, 0), 3);
    CHECK_IS(pore_fail(p.table, p.passive, 0), -EINVAL);
    CHECK_IS(pore_fail(p.table, p.passive, PORE_HOST_DOWN), 0);
    CHECK_IS(pore_fail(p.table, p.passive, PORE_CORRUPT), 0);
    CHECK_IS(pore_error(p.table, p.passive), PORE_HOST_DOWN);
    CHECK_IS(pore_read(p.table, p.passive, got, sizeof got, 0), 3);
    CHECK_IS(pore_read(p.table, p.passive, got, sizeof got, 0), -EPIPE);
    CHECK_IS(pore_write(p.table, p.active, "x", 1, PORE_POKE), 1);
    CHECK_IS(pore_error(p.table, p.active), PORE_PEER_GONE);
    close_pair(&p);
}

static void nothing(int signal) { (void)signal; }

static void waits(void) {
    struct pair p = open_pair(PORE_STRAW, 65536, 1, -1);
    struct sigaction action = {.sa_handler = nothing};
    struct itimerval soon = {.it_value = {.tv_usec = 20000}};
    struct pore_info info;
    CHECK_IS(pore_wait(p.table, p.active, PORE_IN, 0, 1000), 0);
    CHECK_IS(pore_wait(p.table, p.active, PORE_IN, 0, 0), 0);
    CHECK_IS(pore_wait(p.table, p.active, PORE_OUT, 65536, -1), 1);
    CHECK_IS(pore_wait(p.table, p.active, PORE_OUT, 65537, -1), -EINVAL);
    CHECK_IS(pore_wait(p.table, p.active, 3, 1, -1), -EINVAL);
    CHECK_IS(pore_spin(p.table, p.active, PORE_IN, 0), 0);
    CHECK_IS(pore_write(p.table, p.passive, "x", 1, PORE_POKE), 1);
    CHECK_IS(pore_spin(p.table, p.active, PORE_IN, 0), 1);
    CHECK_IS(pore_wait(p.table, p.active, PORE_IN, 0, -1), 1);
    /* Spinning that never pays stops, and is tried again rarely. */
    for (int i = 0; i < 2000; i++) CHECK_IS(pore_spin(p.table, p.passive, PORE_IN, 0), 0);
    CHECK_IS(pore_info(p.table, p.passive, &info), 0);
    CHECK(info.spins < 60 && info.spin_hits == 0);
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &soon, NULL);
    CHECK_IS(pore_wait(p.table, p.passive, PORE_IN, 0, -1), -EINTR);
    close_pair(&p);
}

static void no_leaks(void) {
    int kinds[] = {PORE_STRAW, PORE_TUBE, PORE_XENSTORE, PORE_STRAW};
    int fds = 0, maps = 0;
    for (int i = 0; i < 1000; i++) {
        struct pair p = open_pair(kinds[i % 4], i % 4 == 3 ? 4096 : 0, i % 4 == 3, 0);
        struct pore_options bad = {.role = PORE_PASSIVE, .ring_bytes = 4096, .suppress = 1};
        int ends[2], memory = sealed_memory(3);
        pore_id id;
        channel_pair(ends);
        CHECK_IS(open_one(p.table, PORE_STRAW, memory, ends, &bad, &id), -EBADMSG);
        close(ends[0]), close(ends[1]), close(memory);
        if (i % 2) pore_close(p.table, p.active);
        if (i % 3) pore_fail(p.table, p.passive, PORE_REFUSED);
        close_pair(&p);
        if (i == 100) fds = open_descriptors(), maps = mappings();
    }
    CHECK_IS(open_descriptors(), fds);
    CHECK(mappings() <= maps + 4); /* the allocator may take some */
}

int main(void) {
    alarm(120);
    straw_is_lings();
    for (uint32_t ring = 4096; ring <= 65536; ring *= 4) bytes_in_order(PORE_STRAW, ring);
    bytes_in_order(PORE_STRAW, 0);
    bytes_in_order(PORE_XENSTORE, 0);
    full_and_empty(PORE_STRAW, 0, STRAW_RING - 1);
    full_and_empty(PORE_STRAW, 8192, 8192);
    full_and_empty(PORE_XENSTORE, 0, 1024);
    frames();
    an_inbox(0);
    an_inbox(8192);
    parts_and_places(0);
    parts_and_places(8192);
    many_frames(0);
    many_frames(8192);
    pokes_of_a_ling_straw();
    pokes_spared();
    tube();
    tube_references();
    hostile(PORE_STRAW, 0, 0, 8, STRAW_RING);
    hostile(PORE_STRAW, 0, 0, 8, 0xffffffff);
    hostile(PORE_STRAW, 0, 0, 8, 0x80000000);
    hostile(PORE_STRAW, 4096, 64, 320 + 64, 4097);
    hostile(PORE_STRAW, 4096, 64, 320 + 64, 0x80000000);
    hostile(PORE_TUBE, 0, 4, 264, 32);
    hostile(PORE_TUBE, 0, 4, 264, 0xffffffff);
    hostile(PORE_XENSTORE, 0, 2052, 2056, 1025);
    indexes_that_go_back();
    index_beyond_the_ring();
    ids();
    refused();
    pages_in_any_order();
    last_bytes_first(PORE_STRAW);
    last_bytes_first(PORE_TUBE);
    last_bytes_first(PORE_XENSTORE);
    failed_from_above();
    alarm(0);
    waits();
    alarm(120);
    no_leaks();
    puts("ok");
    return 0;
}
