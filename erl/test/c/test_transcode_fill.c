/* What fills the holes of small messages: against a plain table, under random additions and removals, and its limits.
 *
 * usage: test_transcode_fill [seed [rounds]]
 */
#include "readers.h"

#include <errno.h>
#include <unistd.h>

#include "../../c_src/transcode_fill.h"

enum { OURS = 7, PEER = 5, PROCESSES = 300 };

static uint64_t state = 88172645463325252ull;

static uint32_t below(uint32_t limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (uint32_t)(state >> 16) % limit;
}

static void put32(uint8_t *to, uint32_t n)
{
    to[0] = (uint8_t)(n >> 24);
    to[1] = (uint8_t)(n >> 16);
    to[2] = (uint8_t)(n >> 8);
    to[3] = (uint8_t)n;
}

/* A pid of node a@b, as term_to_binary writes it. */
enum { PID_SIZE = 18, PLACE_SIZE = 17 };

static const uint8_t *pid(uint32_t number, uint32_t creation)
{
    static uint8_t bytes[PID_SIZE] = {88, 119, 3, 'a', '@', 'b'};
    put32(bytes + 6, number);
    put32(bytes + 10, number / 3);
    put32(bytes + 14, creation);
    return bytes;
}

static const uint8_t *place(uint32_t domid, uint32_t id)
{
    static uint8_t bytes[PLACE_SIZE] = {160};
    put32(bytes + 9, domid);
    put32(bytes + 13, id);
    return bytes;
}

/* {envelope, Address, Term} */
static size_t envelope(uint8_t *to, const uint8_t *address, size_t address_size, const uint8_t *term, size_t size)
{
    static const uint8_t head[] = {131, 104, 3, 119, 8, 'e', 'n', 'v', 'e', 'l', 'o', 'p', 'e'};
    memcpy(to, head, sizeof head);
    memcpy(to + sizeof head, address, address_size);
    memcpy(to + sizeof head + address_size, term, size);
    return sizeof head + address_size + size;
}

static const uint8_t NAME[] = {119, 1, 'x'};

/* The message with its holes filled: the size, or why not. */
static long filled(struct fill_table *table, TranscodeWay way, const uint8_t *address, size_t address_size,
                   const uint8_t *term, size_t size, uint8_t *to, size_t room)
{
    uint8_t *in = malloc(13 + address_size + size);
    TranscodePiece first[2];
    CHECK(in != NULL);
    Transcode t = {.in = in, .way = way, .envelope = true, .first = first, .first_room = 2};
    t.size = envelope(in, address, address_size, term, size);
    CHECK(transcode(&t) == 0);
    long n = fill(table, &t, to, room);
    transcode_free(&t);
    free(in);
    return n;
}

static long out(struct fill_table *table, const uint8_t *term, size_t size, uint8_t *to)
{
    return filled(table, TRANSCODE_TO_OTP, NAME, sizeof NAME, term, size, to, 4096);
}

static long in(struct fill_table *table, const uint8_t *term, size_t size, uint8_t *to)
{
    return filled(table, TRANSCODE_FROM, NAME, sizeof NAME, term, size, to, 4096);
}

static struct fill_table *fresh(void)
{
    struct fill_table *table = fill_new(OURS, PEER, state);
    CHECK(table != NULL && fill_node(table, pid(1, 9), PID_SIZE) == 0);
    return table;
}

static bool ends_with(const uint8_t *bytes, long size, const uint8_t *end, size_t end_size)
{
    return size >= (long)end_size && memcmp(bytes + size - end_size, end, end_size) == 0;
}

/* Each process is found by its pid and by its place while it is in the table, and only then. */
static void test_random(long rounds)
{
    struct fill_table *table = fresh();
    uint32_t ids[PROCESSES] = {0};
    bool ours[PROCESSES] = {false};
    uint8_t to[4096];
    for (long i = 0; i < rounds; i++) {
        uint32_t n = below(PROCESSES);
        if (ids[n] != 0) {
            uint32_t domid = ours[n] ? OURS : PEER;
            CHECK(ends_with(to, out(table, pid(n, 9), PID_SIZE, to), place(domid, ids[n]), PLACE_SIZE));
            CHECK(ends_with(to, in(table, place(domid, ids[n]), PLACE_SIZE, to), pid(n, 9), PID_SIZE));
            if (below(3) == 0) {
                fill_drop(table, pid(n, below(2)), PID_SIZE); /* whatever the node was called then */
                CHECK(in(table, place(domid, ids[n]), PLACE_SIZE, to) == -ENOENT);
                ids[n] = 0;
            }
        } else {
            CHECK(out(table, pid(n, 9), PID_SIZE, to) == -ENOENT);
            ids[n] = n + PROCESSES * (1 + below(1000));
            ours[n] = below(2) == 0;
            CHECK(fill_add(table, pid(n, 9), PID_SIZE, ours[n] ? OURS : PEER, ids[n]) == 0);
        }
    }
    fill_free(table);
}

static void test_addresses(void)
{
    struct fill_table *table = fresh();
    const uint8_t term[] = {106};
    uint8_t to[4096], mine[PID_SIZE], theirs[PID_SIZE];
    memcpy(mine, pid(1, 9), PID_SIZE);
    memcpy(theirs, pid(2, 9), PID_SIZE);
    CHECK(fill_add(table, mine, PID_SIZE, OURS, 11) == 0 && fill_add(table, theirs, PID_SIZE, PEER, 12) == 0);
    /* Out: a process of the peer's. In: one of ours. */
    CHECK(filled(table, TRANSCODE_TO_OTP, theirs, PID_SIZE, term, 1, to, 4096) == 13 + PLACE_SIZE + 1);
    CHECK(filled(table, TRANSCODE_TO_LING, theirs, PID_SIZE, term, 1, to, 4096) > 0);
    CHECK(filled(table, TRANSCODE_TO_OTP, mine, PID_SIZE, term, 1, to, 4096) == -ENOENT);
    CHECK(filled(table, TRANSCODE_FROM, place(OURS, 11), PLACE_SIZE, term, 1, to, 4096) == 13 + PID_SIZE + 1);
    CHECK(filled(table, TRANSCODE_FROM, place(PEER, 12), PLACE_SIZE, term, 1, to, 4096) == -ENOENT);
    CHECK(filled(table, TRANSCODE_FROM, place(6, 11), PLACE_SIZE, term, 1, to, 4096) == -ENOENT);
    /* In a message of theirs it may be anybody. */
    CHECK(in(table, place(PEER, 12), PLACE_SIZE, to) > 0 && fill_seen(table, 12) && !fill_seen(table, 12));
    CHECK(!fill_seen(table, 99));
    /* A pid of OTP's form that comes in is nobody's here; another node's, or one of another time, is not known. */
    CHECK(in(table, mine, PID_SIZE, to) == -ENOENT);
    CHECK(out(table, pid(1, 8), PID_SIZE, to) == -ENOENT && fill_add(table, pid(3, 8), PID_SIZE, OURS, 13) == -EINVAL);
    CHECK(fill_add(table, pid(3, 9), PID_SIZE, 6, 13) == -EINVAL);
    CHECK(fill_node(table, (const uint8_t *)"x", 1) == -EINVAL);
    /* The node has another name: the same processes. */
    CHECK(fill_node(table, pid(4, 8), PID_SIZE) == 0);
    CHECK(ends_with(to, in(table, place(OURS, 11), PLACE_SIZE, to), pid(1, 8), PID_SIZE));
    /* Room, to the byte. */
    for (size_t room = 0; room < 13 + 3 + PID_SIZE; room++)
        CHECK(filled(table, TRANSCODE_FROM, NAME, 3, place(OURS, 11), PLACE_SIZE, to, room) == -EMSGSIZE);
    CHECK(filled(table, TRANSCODE_FROM, NAME, 3, place(OURS, 11), PLACE_SIZE, to, 13 + 3 + PID_SIZE) == 13 + 3 + PID_SIZE);
    fill_free(table);
    fill_free(NULL);
}

static void test_refs(void)
{
    /* Of a VM without a name; others cross a straw between BEAMs as they are. */
    static const uint8_t node[] = {119, 13, 'n', 'o', 'n', 'o', 'd', 'e', '@', 'n', 'o', 'h', 'o', 's', 't', 0, 0, 0, 0};
    static const uint8_t name[] = {119, 3, 'd', '@', 's', 0, 0, 0, 2}, words[] = {0, 3, 255, 255, 0, 0, 0, 2, 0, 0, 0, 3};
    uint8_t ref[3 + sizeof node + sizeof words] = {90, 0, 3}, wire[3 + sizeof name + sizeof words] = {90, 0, 3};
    struct fill_table *table = fresh();
    uint8_t to[4096], other[sizeof ref];
    memcpy(ref + 3, node, sizeof node);
    memcpy(wire + 3, name, sizeof name);
    memcpy(ref + 3 + sizeof node, words, sizeof words);
    memcpy(wire + 3 + sizeof name, words, sizeof words);
    CHECK(out(table, ref, sizeof ref, to) == -ENOENT);
    CHECK(in(table, wire, sizeof wire, to) == -ENOENT);
    CHECK(fill_ref(table, true, node, sizeof node, name, sizeof name) == 0);
    CHECK(ends_with(to, out(table, ref, sizeof ref, to), wire, sizeof wire));
    CHECK(in(table, wire, sizeof wire, to) == -ENOENT);
    CHECK(fill_ref(table, false, name, sizeof name, node, sizeof node) == 0);
    CHECK(ends_with(to, in(table, wire, sizeof wire, to), ref, sizeof ref));
    CHECK(filled(table, TRANSCODE_TO_LING, NAME, sizeof NAME, ref, sizeof ref, to, 4096) == -ENOENT);
    CHECK(filled(table, TRANSCODE_FROM, wire, sizeof wire, NAME, sizeof NAME, to, 4096) == -ENOENT); /* no address */
    memcpy(other, ref, sizeof ref);
    other[sizeof ref - 11] = 4; /* a first word of more than 18 bits */
    CHECK(out(table, other, sizeof ref, to) == -ENOENT);
    /* Others push it out. */
    for (uint8_t i = 0; i < 8; i++) {
        uint8_t more[sizeof node];
        memcpy(more, node, sizeof node);
        more[sizeof more - 1] = (uint8_t)(1 + i);
        CHECK(fill_ref(table, true, more, sizeof more, name, sizeof name) == 0);
    }
    CHECK(out(table, ref, sizeof ref, to) == -ENOENT);
    CHECK(fill_ref(table, true, node, 300, name, sizeof name) == -EINVAL);
    fill_free(table);
}

/* More holes than there is first room, and data of the caller's. */
static void test_many(void)
{
    struct fill_table *table = fresh();
    uint8_t term[5 + 100 * PLACE_SIZE + 1] = {108, 0, 0, 0, 100}, to[4096];
    CHECK(fill_add(table, pid(1, 9), PID_SIZE, OURS, 11) == 0);
    for (size_t i = 0; i < 100; i++)
        memcpy(term + 5 + i * PLACE_SIZE, place(OURS, 11), PLACE_SIZE);
    term[sizeof term - 1] = 106;
    CHECK(in(table, term, sizeof term, to) == 13 + 3 + 5 + 100 * PID_SIZE + 1);
    put32(term + sizeof term - 5, 12);
    CHECK(in(table, term, sizeof term, to) == -ENOENT);
    fill_free(table);
}

int main(int argc, char **argv)
{
    alarm(240);
    if (argc > 1)
        state ^= strtoull(argv[1], NULL, 10) * 0x9E3779B97F4A7C15u;
    test_addresses();
    test_refs();
    test_many();
    test_random(argc > 2 ? atol(argv[2]) : 100000);
    puts("ok");
    return 0;
}
