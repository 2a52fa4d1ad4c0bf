/* A hostile peer: random calls at one end while a thread and the fuzzer scribble over the shared words, lengths and channel.
 *
 * Nothing may crash, hang, touch memory beyond the pore or the caller's buffers (ASan, guard pages), or say what can't be.
 * usage: fuzz_pore [seed [rounds]]
 */
#include "check.h"
#include "one_address.h"

struct scribbler {
    struct pair *pair;
    uint64_t seed;
    volatile int stop;
    uint32_t words; /* of the header */
};

static uint32_t nasty(uint64_t *seed, uint32_t size) {
    uint32_t near[] = {0, 1, size - 1, size, size + 1, 0x7fffffff, 0x80000000, 0xffffffff, 31, 32, 4096, 4097};
    uint64_t r = random_next(seed);
    if (r % 4 == 0) return near[(r >> 8) % (sizeof near / sizeof *near)];
    if (r % 4 == 1) return (uint32_t)(r >> 32);
    return (uint32_t)((r >> 16) % size);
}

/* One word of the header; most at the places that matter. */
static void scribble(struct scribbler *s, uint64_t *seed, uint32_t size, uint32_t start) {
    uint32_t *words = (uint32_t *)(void *)s->pair->memory;
    uint64_t r = random_next(seed);
    uint32_t where = start + (uint32_t)(r % s->words);
    *(volatile uint32_t *)&words[where] = nasty(seed, size);
}

static uint32_t start_of(int kind) { return kind == PORE_XENSTORE ? 512 : 0; }

static void *scribbling(void *context) {
    struct scribbler *s = context;
    struct pore_info info;
    if (pore_info(s->pair->table, s->pair->active, &info)) return NULL;
    while (!s->stop) {
        scribble(s, &s->seed, info.in_size + 1, start_of(info.kind));
        for (volatile int i = 0; i < 200; i++) {}
    }
    return NULL;
}

static void say(long result, long most) {
    CHECK(result <= most);
    CHECK(result >= 0 || result == -EBADMSG || result == -EPIPE || result == -EMSGSIZE || result == -EINVAL || result == -EBADF);
}

static void one_call(struct pair *p, pore_id id, uint64_t *seed, const struct pore_info *info) {
    size_t length = random_next(seed) % (info->in_size + 100);
    uint8_t *buffer;
    uint32_t in = 0, out = 0, lengths[8];
    int flags = (int)(random_next(seed) % 2);
    long n;
    if (info->packet_max) length = random_next(seed) % 6000;
    buffer = malloc(length + 1); /* ASan knows its end */
    memset(buffer, 1, length + 1);
    switch (random_next(seed) % 11) {
        case 0:
        case 1:
            n = pore_read(p->table, id, buffer, length, flags);
            say(n, info->packet_max && length > info->packet_max ? info->packet_max : (long)length);
            break;
        case 2:
        case 3: say(pore_write(p->table, id, buffer, length, flags), (long)length); break;
        case 4: say(pore_write_frame(p->table, id, buffer, length, flags), (long)length + 4); break;
        case 5:
            n = pore_avail(p->table, id, &in, &out);
            say(n, 0);
            if (!n) CHECK(in <= info->in_size && out <= info->out_size);
            break;
        case 6: say(pore_notify_when(p->table, id, (uint32_t)length), 1); break;
        case 7: say(pore_slots(p->table, id), info->out_size); break;
        case 9:
            for (int i = 0; i < 8; i++) lengths[i] = (uint32_t)(random_next(seed) % (length / 8 + 1));
            say(pore_write_frames(p->table, id, buffer, lengths, 8, flags), 8);
            break;
        case 10:
            n = pore_read_frames(p->table, id, buffer, length, lengths, 8, flags);
            say(n, 8);
            for (long i = 0; i < n; i++) CHECK(lengths[i] <= length && (!i || lengths[i] >= lengths[i - 1]));
            break;
        default:
            n = pore_wait(p->table, id, 1 << (int)(random_next(seed) % 3), (uint32_t)(random_next(seed) % (info->in_size + 2)), 20);
            say(n, 1);
            pore_poke(p->table, id);
    }
    free(buffer);
}

static void round_of(uint64_t *seed) {
    static const struct {
        int kind;
        uint32_t ring, words;
    } sorts[] = {{PORE_STRAW, 0, 4}, {PORE_STRAW, 4096, 144}, {PORE_STRAW, 65536, 144}, {PORE_TUBE, 0, 132}, {PORE_XENSTORE, 0, 4}};
    uint64_t r = random_next(seed);
    int sort = (int)(r % 5), thread = (r >> 8) % 4 == 0;
    struct pair p = open_pair(sorts[sort].kind, sorts[sort].ring, sorts[sort].ring && (r >> 16) % 2, (int)((r >> 24) % 3));
    struct scribbler s = {&p, random_next(seed), 0, sorts[sort].words};
    pore_id id = (r >> 32) % 2 ? p.active : p.passive;
    struct pore_info info;
    pthread_t scribbler;
    CHECK_IS(pore_info(p.table, id, &info), 0);
    if (thread) CHECK(pthread_create(&scribbler, NULL, scribbling, &s) == 0);
    for (int i = 0; i < 60; i++) {
        uint64_t now = random_next(seed);
        /* The peer behaves for a while: the rings get somewhere. */
        if (now % 3 == 0) one_call(&p, id == p.active ? p.passive : p.active, seed, &info);
        if (now % 20 == 0) scribble(&s, seed, info.in_size + 1, start_of(info.kind));
        one_call(&p, id, seed, &info);
        if (pore_error(p.table, id) == PORE_CORRUPT) {
            uint8_t byte;
            CHECK_IS(pore_read(p.table, id, &byte, 1, 0), -EBADMSG);
            CHECK_IS(pore_write(p.table, id, &byte, 1, 0), -EBADMSG);
            if (now % 2) break;
        }
    }
    s.stop = 1;
    if (thread) pthread_join(scribbler, NULL);
    close_pair(&p);
}

int main(int count, char **arguments) {
    uint64_t seed = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    long rounds = count > 2 ? strtol(arguments[2], NULL, 10) : 3000;
    seed = seed * 2654435761u + 88172645463325252ull;
    for (long i = 0; i < rounds; i++) {
        alarm(20); /* one round takes milliseconds: this is a hang */
        round_of(&seed);
    }
    puts("ok");
    return 0;
}
