/* Threads: both ends of a pore at work at once, sleepers that are closed, several threads at one end. For TSan and for ASan.
 *
 * A poke that is lost shows as a hang: alarm() ends the program.
 */
#include "check.h"
#include "one_address.h"

static uint64_t BYTES = 3000000;

struct work {
    struct pore_table *table;
    pore_id id;
    uint64_t seed, bytes, done;
    int packets;
};

static uint8_t expected(uint64_t position) { return (uint8_t)(position * 13 >> 5); }

static void *writer(void *context) {
    struct work *w = context;
    uint8_t chunk[9000];
    while (w->done < w->bytes) {
        size_t n = random_next(&w->seed) % (w->packets ? 4096 : sizeof chunk) + 1;
        long sent;
        if (n > w->bytes - w->done) n = (size_t)(w->bytes - w->done);
        for (size_t i = 0; i < n; i++) chunk[i] = expected(w->done + i);
        sent = pore_write(w->table, w->id, chunk, n, random_next(&w->seed) % 2 ? PORE_POKE : 0);
        CHECK(sent >= 0);
        if (random_next(&w->seed) % 8 == 0 || sent < (long)n) CHECK(pore_poke(w->table, w->id) >= 0);
        w->done += (uint64_t)sent;
        if (!sent) CHECK_IS(pore_wait(w->table, w->id, PORE_OUT, w->packets ? 1 : random_next(&w->seed) % 500 + 1, -1), 1);
    }
    CHECK(pore_poke(w->table, w->id) >= 0);
    return NULL;
}

static void *reader(void *context) {
    struct work *w = context;
    uint8_t chunk[9000];
    while (w->done < w->bytes) {
        size_t n = w->packets ? sizeof chunk : random_next(&w->seed) % sizeof chunk + 1;
        long got = pore_read(w->table, w->id, chunk, n, random_next(&w->seed) % 2 ? PORE_POKE : 0);
        CHECK(got >= 0);
        for (long i = 0; i < got; i++) CHECK_IS(chunk[i], expected(w->done + (uint64_t)i));
        w->done += (uint64_t)got;
        if (random_next(&w->seed) % 8 == 0 || !got) CHECK(pore_poke(w->table, w->id) >= 0);
        if (random_next(&w->seed) % 4 == 0) CHECK(pore_avail(w->table, w->id, NULL, NULL) >= -EPIPE);
        if (!got && w->done < w->bytes) CHECK_IS(pore_wait(w->table, w->id, PORE_IN, 0, -1), 1);
    }
    CHECK(pore_poke(w->table, w->id) >= 0);
    return NULL;
}

/* One byte to and fro, nobody spins: every poke counts. */
static void *player(void *context) {
    struct work *w = context;
    uint8_t ball = 0;
    for (w->done = 0; w->done < w->bytes; w->done++) {
        if (w->packets) CHECK_IS(pore_write(w->table, w->id, &ball, 1, PORE_POKE), 1);
        CHECK_IS(pore_wait(w->table, w->id, PORE_IN, 0, -1), 1);
        CHECK_IS(pore_read(w->table, w->id, &ball, 1, 0), 1);
        if (!w->packets) CHECK_IS(pore_write(w->table, w->id, &ball, 1, PORE_POKE), 1);
    }
    return NULL;
}

static void ping_pong(uint64_t turns) {
    struct pair p = open_pair(PORE_STRAW, 4096, 1, 0);
    struct work works[2] = {{p.table, p.active, 1, turns, 0, 0}, {p.table, p.passive, 2, turns, 0, 1}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, player, &works[i]) == 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    close_pair(&p);
}

/* Frames to and fro as those who count each call: both sides learn when to spin and when to offer their cpu. */
static void *caller(void *context) {
    struct work *w = context;
    uint32_t ends[4], length;
    uint8_t frame[512] = {0}, got[2048];
    struct pore_inbox inbox = {.table = w->table, .id = w->id, .to = got, .length = sizeof got, .ends = ends, .count = 4,
                               .flags = PORE_POKE, .timeout_us = -1};
    for (w->done = 0; w->done < w->bytes; w->done++) {
        length = (uint32_t)(w->done % sizeof frame);
        frame[0] = (uint8_t)w->done;
        if (w->packets) CHECK_IS(pore_write_frames(w->table, w->id, frame, &length, 1, PORE_POKE), 1);
        if (w->done % 3 == 0) pore_spin(w->table, w->id, PORE_IN, 0);
        CHECK_IS(pore_wait_frames(&inbox), 1);
        CHECK(ends[0] == length && inbox.same == length && (!length || got[0] == (uint8_t)w->done));
        if (!w->packets) CHECK_IS(pore_write_frames(w->table, w->id, frame, &length, 1, PORE_POKE), 1);
    }
    return NULL;
}

static void calls(uint32_t ring_bytes, uint64_t turns) {
    struct pair p = open_pair(PORE_STRAW, ring_bytes, ring_bytes != 0, PORE_SPIN_DEFAULT);
    struct work works[2] = {{p.table, p.active, 1, turns, 0, 0}, {p.table, p.passive, 2, turns, 0, 1}};
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, caller, &works[i]) == 0);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    close_pair(&p);
}

/* One byte just when the reader goes to sleep: what the fences are for. */
static void *just_then(void *context) {
    struct work *w = context;
    for (w->done = 0; w->done < w->bytes; w->done++) {
        while (pore_slots(w->table, w->id) != 4096) {}
        for (volatile uint64_t pause = random_next(&w->seed) % 128; pause; pause--) {}
        CHECK_IS(pore_write(w->table, w->id, "x", 1, PORE_POKE), 1);
    }
    return NULL;
}

static void near_misses(uint64_t turns) {
    struct pair p = open_pair(PORE_STRAW, 4096, 1, 0);
    struct work work = {p.table, p.active, 77, turns, 0, 0};
    pthread_t thread;
    uint8_t byte;
    CHECK(pthread_create(&thread, NULL, just_then, &work) == 0);
    for (uint64_t i = 0; i < turns; i++) {
        CHECK_IS(pore_wait(p.table, p.passive, PORE_IN, 0, -1), 1);
        CHECK_IS(pore_read(p.table, p.passive, &byte, 1, 0), 1);
    }
    pthread_join(thread, NULL);
    close_pair(&p);
}

/* Four threads: each end is read and written at once, and waits for both. */
static void both_ways(int kind, uint32_t ring_bytes, int suppress, int spin_us) {
    struct pair p = open_pair(kind, ring_bytes, suppress, spin_us);
    int packets = kind == PORE_TUBE;
    struct work works[4] = {{p.table, p.active, 1, BYTES, 0, packets},
                            {p.table, p.passive, 2, BYTES, 0, packets},
                            {p.table, p.passive, 3, BYTES, 0, packets},
                            {p.table, p.active, 4, BYTES, 0, packets}};
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, i % 2 ? reader : writer, &works[i]) == 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    close_pair(&p);
}

struct sleeper {
    struct pore_table *table;
    pore_id id;
    int what, result;
};

static void *sleeper(void *context) {
    struct sleeper *s = context;
    s->result = pore_wait(s->table, s->id, s->what, 16375, -1);
    return NULL;
}

/* Close, fail and a peer that goes wake everybody who sleeps. */
static void sleepers(int how) {
    static uint8_t full[STRAW_RING];
    struct pair p = open_pair(PORE_STRAW, 0, 0, 50);
    struct sleeper s[4] = {{p.table, p.active, PORE_IN, 9}, {p.table, p.active, PORE_OUT, 9},
                           {p.table, p.active, PORE_IN, 9}, {p.table, p.active, PORE_OUT, 9}};
    pthread_t threads[4];
    CHECK(pore_write(p.table, p.active, full, 10, 0) == 10);
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, sleeper, &s[i]) == 0);
    usleep(how % 2 ? 20000 : 50);
    if (how / 2 == 0) CHECK_IS(pore_close(p.table, p.active), 0);
    if (how / 2 == 1) CHECK_IS(pore_close(p.table, p.passive), 0);
    if (how / 2 == 2) CHECK_IS(pore_fail(p.table, p.active, PORE_HOST_DOWN), 0);
    if (how / 2 == 3) {
        ((struct wire_straw *)(void *)p.memory)->in_prod = 1u << 20;
        pore_read(p.table, p.active, full, 1, 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < 4; i++) CHECK(s[i].result == (how / 2 == 0 ? -EBADF : -EPIPE) || (how / 2 == 3 && s[i].result == -EBADMSG));
    close_pair(&p);
}

struct churn {
    struct pore_table *table;
    pore_id shared[4];
    uint64_t seed;
};

/* Any call on ids that another thread may be closing. */
static void *churn(void *context) {
    struct churn *c = context;
    uint8_t data[100];
    uint32_t in, out;
    for (int i = 0; i < 3000; i++) {
        pore_id id = c->shared[random_next(&c->seed) % 4];
        struct pore_info info;
        long result = 0;
        switch (random_next(&c->seed) % 8) {
            case 0: result = pore_read(c->table, id, data, 100, PORE_POKE); break;
            case 1: result = pore_write(c->table, id, data, 100, PORE_POKE); break;
            case 2: result = pore_avail(c->table, id, &in, &out); break;
            case 3: result = pore_wait(c->table, id, PORE_IN, 0, 50); break;
            case 4: result = pore_info(c->table, id, &info); break;
            case 5: result = pore_poke(c->table, id); break;
            case 6: result = pore_notify_when(c->table, id, 100); break;
            case 7: result = i % 500 ? pore_spin(c->table, id, PORE_OUT, 100) : pore_close(c->table, id); break;
        }
        CHECK(result >= 0 || result == -EBADF || result == -EPIPE);
    }
    return NULL;
}

static void churning(uint64_t seed) {
    struct pair p = open_pair(PORE_STRAW, 4096, 1, 10), q = open_pair(PORE_TUBE, 0, 0, 10);
    struct churn c[4];
    pthread_t threads[4];
    struct pore_options options = {.role = PORE_ACTIVE};
    int ends[2], memory = sealed_memory(8);
    pore_id a, b;
    channel_pair(ends);
    CHECK_IS(open_one(p.table, PORE_STRAW, memory, (int[]){ends[0], -1}, &options, &a), 0);
    options.role = PORE_PASSIVE;
    CHECK_IS(open_one(p.table, PORE_STRAW, memory, (int[]){ends[1], -1}, &options, &b), 0);
    for (int i = 0; i < 4; i++) {
        c[i] = (struct churn){p.table, {p.active, p.passive, a, b}, seed * 4 + (uint64_t)i + 1};
        CHECK(pthread_create(&threads[i], NULL, churn, &c[i]) == 0);
    }
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    close(memory);
    close_pair(&p);
    close_pair(&q);
}

int main(int count, char **arguments) {
    if (count > 1) BYTES = strtoull(arguments[1], NULL, 10);
    alarm(240);
    both_ways(PORE_STRAW, 0, 0, -1);
    both_ways(PORE_STRAW, 0, 0, 0);
    both_ways(PORE_STRAW, 4096, 1, 0);
    both_ways(PORE_STRAW, 4096, 1, -1);
    both_ways(PORE_STRAW, 65536, 1, -1);
    both_ways(PORE_STRAW, 16384, 0, 20);
    both_ways(PORE_TUBE, 0, 0, -1);
    both_ways(PORE_XENSTORE, 0, 0, 0);
    ping_pong(BYTES / 100);
    near_misses(BYTES / 30);
    calls(0, BYTES / 100);
    calls(8192, BYTES / 100);
    for (int how = 0; how < 8; how++) sleepers(how);
    for (uint64_t seed = 1; seed < 4; seed++) churning(seed);
    puts("ok");
    return 0;
}
