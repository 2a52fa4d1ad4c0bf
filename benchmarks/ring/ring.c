/* One measurement of one transport between two processes: rings of csrc/pore beside a unix socket, a pipe and memcpy.
 *
 * usage: ring <transport> tp|pp <payload bytes> <messages> apart|same|free
 *   transports: memcpy unix pipe ling wide:<ring bytes> always:<ring bytes> (a wide ring that pokes always)
 *               bytes (LING's layout by a loop over single bytes, a poke each time: what the first Python straw did)
 * tp: frames (u32 length + payload) one way, the end acknowledged: prints payload MB/s. pp: to and fro: us per round trip.
 * Both sides block as a user would; the sender sends each frame by itself, the receiver takes what there is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <fcntl.h>
#include <time.h>
#include <unistd.h>

#include "../../csrc/include/pore.h"

enum { HEAD = 4, CHUNK = 1 << 18 };

#define NEED(what)                                                                    \
    do {                                                                              \
        if (!(what)) fprintf(stderr, "%s:%d: %s: %m\n", __FILE__, __LINE__, #what), exit(1); \
    } while (0)

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    NEED(sched_setaffinity(0, sizeof set, &set) == 0);
}

/* ---- transports: an end sends all, and takes some ---- */

struct end {
    struct pore_table *table; /* NULL: descriptors, or a loop over bytes */
    struct loop *loop;
    pore_id id;
    uint32_t half;
    int in, out;
};

static struct end ends[2];

/* ---- the loop over bytes ---- */

struct loop {
    struct lane {
        volatile uint32_t prod, cons;
        uint8_t data[16376];
    } lane[2];
};

static long loop_move(struct end *e, int lane, uint8_t *to, const uint8_t *from, size_t n) {
    struct lane *l = &e->loop->lane[lane];
    uint32_t prod = l->prod, cons = l->cons;
    size_t done = 0;
    __sync_synchronize();
    while (done < n && (to ? cons != prod : (prod + 1) % sizeof l->data != cons)) {
        if (to) {
            to[done++] = l->data[cons];
            if (++cons == sizeof l->data) cons = 0;
        } else {
            l->data[prod] = from[done++];
            if (++prod == sizeof l->data) prod = 0;
        }
    }
    __sync_synchronize();
    if (to) l->cons = cons;
    else l->prod = prod;
    __sync_synchronize();
    if (done) send(e->out, "", 1, MSG_DONTWAIT | MSG_NOSIGNAL);
    return (long)done;
}

static void loop_sleep(struct end *e) {
    char room[512];
    NEED(recv(e->in, room, sizeof room, 0) > 0);
}

static void send_all(struct end *e, const uint8_t *from, size_t n) {
    while (n) {
        if (e->loop) {
            long done = loop_move(e, e == &ends[0], NULL, from, n);
            from += done;
            n -= (size_t)done;
            if (n) loop_sleep(e);
            continue;
        }
        long sent = e->table ? pore_write(e->table, e->id, from, n, PORE_POKE | PORE_QUIET) : write(e->out, from, n);
        NEED(sent >= 0);
        from += sent;
        n -= (size_t)sent;
        if (n && e->table) NEED(pore_wait(e->table, e->id, PORE_OUT, n < e->half ? (uint32_t)n : e->half, -1) == 1);
    }
}

static size_t take(struct end *e, uint8_t *to, size_t n) {
    for (;;) {
        if (e->loop) {
            long done = loop_move(e, e != &ends[0], to, NULL, n);
            if (done) return (size_t)done;
            loop_sleep(e);
            continue;
        }
        long got = e->table ? pore_read(e->table, e->id, to, n, PORE_POKE | PORE_QUIET) : read(e->in, to, n);
        if (got > 0) return (size_t)got;
        NEED(e->table && got == 0);
        NEED(pore_wait(e->table, e->id, PORE_IN, 0, -1) == 1);
    }
}

static void take_all(struct end *e, uint8_t *to, size_t n) {
    while (n) {
        size_t got = take(e, to, n);
        to += got;
        n -= got;
    }
}

static void open_pores(uint32_t ring_bytes, int suppress) {
    struct pore_memory memory = {.pages = pore_straw_pages(ring_bytes)};
    struct pore_options options = {.ring_bytes = ring_bytes, .suppress = suppress, .spin_us = PORE_SPIN_DEFAULT};
    int channel[2];
    memory.fd = memfd_create("ring", MFD_ALLOW_SEALING);
    NEED(memory.pages && ftruncate(memory.fd, (off_t)memory.pages * 4096) == 0);
    NEED(fcntl(memory.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) == 0);
    NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, channel) == 0);
    for (int i = 0; i < 2; i++) {
        options.role = i ? PORE_PASSIVE : PORE_ACTIVE;
        ends[i].table = pore_table_new(1);
        NEED(pore_open_straw(ends[i].table, &memory, channel[i], &options, &ends[i].id) == 0);
        ends[i].half = (ring_bytes ? ring_bytes : 16376) / 2;
    }
}

static void open_ends(const char *transport) {
    int a[2], b[2];
    if (!strcmp(transport, "unix")) {
        NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, a) == 0);
        ends[0].in = ends[0].out = a[0];
        ends[1].in = ends[1].out = a[1];
    } else if (!strcmp(transport, "pipe")) {
        NEED(pipe(a) == 0 && pipe(b) == 0);
        ends[0].in = a[0], ends[0].out = b[1];
        ends[1].in = b[0], ends[1].out = a[1];
    } else if (!strcmp(transport, "bytes")) {
        NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, a) == 0);
        ends[0].in = ends[0].out = a[0];
        ends[1].in = ends[1].out = a[1];
        ends[0].loop = mmap(NULL, sizeof(struct loop), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
        NEED(ends[0].loop != MAP_FAILED);
        ends[1].loop = ends[0].loop;
    } else if (!strcmp(transport, "ling")) {
        open_pores(0, 0);
    } else if (!strncmp(transport, "wide:", 5)) {
        open_pores((uint32_t)atoi(transport + 5), 1);
    } else if (!strncmp(transport, "always:", 7)) {
        open_pores((uint32_t)atoi(transport + 7), 0);
    } else {
        fprintf(stderr, "no transport %s\n", transport);
        exit(2);
    }
}

/* ---- the two sides ---- */

/* Goes over frames as they come, whatever their pieces; returns when `messages` are complete. */
static void count_frames(struct end *e, uint8_t *chunk, long messages) {
    uint8_t head[HEAD];
    size_t have = 0, body = 0;
    while (messages) {
        size_t got = take(e, chunk, CHUNK), at = 0;
        while (at < got) {
            if (have < HEAD) {
                head[have++] = chunk[at++];
                if (have < HEAD) continue;
                uint32_t n;
                memcpy(&n, head, 4);
                body = n;
            }
            size_t step = got - at < body ? got - at : body;
            at += step;
            body -= step;
            if (!body) messages--, have = 0;
        }
    }
}

static void other_side(int tp, size_t payload, long messages) {
    uint8_t *chunk = malloc(payload + HEAD > CHUNK ? payload + HEAD : CHUNK);
    if (tp) {
        count_frames(&ends[1], chunk, messages);
        send_all(&ends[1], (const uint8_t *)"!", 1);
    } else {
        for (long i = 0; i < messages; i++) {
            take_all(&ends[1], chunk, payload + HEAD);
            send_all(&ends[1], chunk, payload + HEAD);
        }
    }
}

static double measured(int tp, size_t payload, long messages) {
    uint8_t *frame = calloc(1, payload + HEAD), *back = malloc(payload + HEAD);
    uint32_t n = (uint32_t)payload;
    double start = now();
    memcpy(frame, &n, 4);
    if (tp) {
        for (long i = 0; i < messages; i++) send_all(&ends[0], frame, payload + HEAD);
        take_all(&ends[0], back, 1);
        return (double)payload * (double)messages / (now() - start) / 1e6;
    }
    for (long i = 0; i < messages; i++) {
        send_all(&ends[0], frame, payload + HEAD);
        take_all(&ends[0], back, payload + HEAD);
    }
    return (now() - start) / (double)messages * 1e6;
}

static double memcpy_alone(size_t payload, long messages) {
    uint8_t *from = calloc(1, payload + 1), *to = malloc(payload + 1);
    double start = now();
    for (long i = 0; i < messages; i++) {
        memcpy(to, from, payload);
        __asm__ volatile("" : : "r"(to), "r"(from) : "memory");
    }
    return (double)payload * (double)messages / (now() - start) / 1e6;
}

int main(int count, char **arguments) {
    if (count != 6) {
        fprintf(stderr, "usage: ring <transport> tp|pp <payload bytes> <messages> apart|same|free\n");
        return 2;
    }
    int tp = !strcmp(arguments[2], "tp"), status;
    size_t payload = strtoull(arguments[3], NULL, 10);
    long messages = strtol(arguments[4], NULL, 10);
    const char *where = arguments[5];
    if (!strcmp(arguments[1], "memcpy")) {
        printf("%.4g\n", memcpy_alone(payload, messages));
        return 0;
    }
    open_ends(arguments[1]);
    pid_t child = fork();
    NEED(child >= 0);
    if (strcmp(where, "free")) pin(child == 0 && !strcmp(where, "apart") ? 1 : 0);
    if (child == 0) {
        other_side(tp, payload, messages);
        _exit(0);
    }
    double result = measured(tp, payload, messages);
    NEED(waitpid(child, &status, 0) == child && status == 0);
    printf("%.4g\n", result);
    if (getenv("RING_INFO") && ends[0].table) {
        struct pore_info i;
        pore_info(ends[0].table, ends[0].id, &i);
        fprintf(stderr, "pokes %llu spared %llu irqs %llu spins %llu hits %llu sleeps %llu\n", (unsigned long long)i.pokes,
                (unsigned long long)i.pokes_spared, (unsigned long long)i.irqs, (unsigned long long)i.spins,
                (unsigned long long)i.spin_hits, (unsigned long long)i.sleeps);
    }
    return 0;
}
