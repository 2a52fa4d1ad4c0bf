/* The transcoder: golden cases, limits on both sides, and random terms and mutations of them, whose results two strict
 * readers must take (readers.h).
 *
 * usage: test_transcode [seed [rounds]]
 */
#include "readers.h"

#include <errno.h>
#include <unistd.h>

#include "../../c_src/transcode.h"

/* ---- a run with memory that is no byte too long ---- */

typedef struct {
    Transcode t;
    uint8_t *in;
    int result;
} Run;

static Run run(TranscodeWay way, bool envelope, bool maps, const uint8_t *bytes, size_t size)
{
    Run r = {.in = malloc(size ? size : 1)};
    CHECK(r.in != NULL);
    memcpy(r.in, bytes, size);
    r.t = (Transcode){.in = r.in, .size = size, .way = way, .envelope = envelope, .ling_maps = maps};
    r.result = transcode(&r.t);
    return r;
}

static void end(Run *r)
{
    transcode_free(&r->t);
    free(r->in);
}

static const uint8_t LING_PID[] = {160, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 9};
static const uint8_t LING_REF[] = {114, 0, 3, 115, 5, 'l', 'o', 'c', 'a', 'l', 0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3};
static const uint8_t OTP_PID[] = {88, 119, 3, 'a', '@', 'b', 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3};
static const uint8_t OTP_REF[] = {90, 0, 1, 119, 3, 'a', '@', 'b', 0, 0, 0, 4, 0, 0, 0, 5};

/* The result with every hole filled as its reader expects. */
static uint8_t *fill(const Run *r, size_t *size)
{
    const Transcode *t = &r->t;
    uint8_t *bytes = malloc(t->total + t->holes * 32 + 1);
    size_t n = 0, out = 0, total = 0, holes = 0;
    bool otp = t->way == TRANSCODE_FROM;
    CHECK(bytes != NULL && t->count > 0);
    for (size_t i = 0; i < t->count; i++) {
        const TranscodePiece *p = &t->pieces[i];
        const uint8_t *from;
        size_t length = p->size;
        TranscodeName name;
        switch (p->kind) {
        case PIECE_INPUT:
            CHECK((size_t)p->at + p->size <= (p->part == 0 ? t->size : t->more[p->part - 1].size));
            from = transcode_at(t, p);
            total += length;
            break;
        case PIECE_OUTPUT:
            CHECK(p->at == out && out + p->size <= t->out_size);
            from = t->out + out;
            out += length;
            total += length;
            break;
        case PIECE_PID:
        case PIECE_LING_PID:
            CHECK((size_t)p->at + p->size <= (p->part == 0 ? t->size : t->more[p->part - 1].size) && !p->from);
            if (p->kind == PIECE_PID) {
                transcode_pid(transcode_at(t, p), &name);
                CHECK(name.node + name.node_size <= transcode_at(t, p) + p->size);
            } else {
                uint64_t boxid;
                uint32_t domid, id;
                transcode_ling_pid(transcode_at(t, p), &boxid, &domid, &id);
                CHECK(p->size == 17 && boxid >> 56 == transcode_at(t, p)[1] && (id & 255) == transcode_at(t, p)[16]);
            }
            from = otp ? OTP_PID : LING_PID;
            length = otp ? sizeof OTP_PID : sizeof LING_PID;
            holes++;
            break;
        default:
            CHECK(p->kind == PIECE_REF || p->kind == PIECE_ALIAS);
            CHECK((size_t)p->at + p->size <= (p->part == 0 ? t->size : t->more[p->part - 1].size));
            CHECK(!p->from || (i > 0 && (t->pieces[i - 1].kind == PIECE_PID || t->pieces[i - 1].kind == PIECE_LING_PID ||
                                         (i > 1 && t->pieces[i - 2].kind <= PIECE_LING_PID))));
            transcode_ref(transcode_at(t, p), &name);
            CHECK(name.count >= 1 && name.count <= TRANSCODE_MAX_REF_WORDS);
            CHECK(name.node + name.node_size < transcode_at(t, p) + p->size);
            from = t->way == TRANSCODE_TO_LING ? LING_REF : OTP_REF;
            length = t->way == TRANSCODE_TO_LING ? sizeof LING_REF : sizeof OTP_REF;
            holes++;
        }
        CHECK(length > 0);
        memcpy(bytes + n, from, length);
        n += length;
    }
    CHECK(total == t->total && holes == t->holes && out == t->out_size);
    *size = n;
    return bytes;
}

/* ---- golden cases ---- */

static size_t unhex(const char *text, uint8_t *bytes)
{
    size_t n = 0;
    for (; *text != 0; text++) {
        unsigned byte;
        if (*text == ' ')
            continue;
        CHECK(sscanf(text, "%2x", &byte) == 1);
        bytes[n++] = (uint8_t)byte;
        text++;
    }
    return n;
}

/* A hole as its kind and, for what stands in a From, a star. */
static void show(const Run *r, char *text)
{
    for (size_t i = 0, out = 0; i < r->t.count; i++) {
        const TranscodePiece *p = &r->t.pieces[i];
        const uint8_t *from = p->kind == PIECE_INPUT ? transcode_at(&r->t, p) : r->t.out + out;
        if (p->kind == PIECE_OUTPUT)
            out += p->size;
        if (p->kind <= PIECE_OUTPUT)
            for (uint32_t k = 0; k < p->size; k++)
                text += sprintf(text, "%02x", from[k]);
        else
            text += sprintf(text, "%c%s", "PLRA"[p->kind - PIECE_PID], p->from ? "*" : "");
    }
    *text = 0;
}

static void golden(int line, TranscodeWay way, const char *in, const char *wanted)
{
    uint8_t bytes[4096];
    static char text[16384];
    char packed[16384];
    size_t n = 0;
    for (const char *c = wanted; *c != 0; c++)
        if (*c != ' ' || wanted[0] == '!')
            packed[n++] = *c;
    packed[n] = 0;
    Run r = run(way, false, false, bytes, unhex(in, bytes));
    if (r.result == 0)
        show(&r, text);
    else
        sprintf(text, "!%s", r.t.error);
    if (strcmp(text, packed) != 0) {
        fprintf(stderr, "%s:%d: %s\n   got %s\nwanted %s\n", __FILE__, line, in, text, packed);
        exit(1);
    }
    end(&r);
}

#define OTP(in, wanted) golden(__LINE__, TRANSCODE_TO_OTP, in, wanted)
#define LING(in, wanted) golden(__LINE__, TRANSCODE_TO_LING, in, wanted)
#define FROM(in, wanted) golden(__LINE__, TRANSCODE_FROM, in, wanted)
#define ALL(in, wanted) (OTP(in, wanted), LING(in, wanted), FROM(in, wanted))

static void old_float(int line, const char *text, const char *wanted)
{
    char padded[31] = {0}, hex[3 * 34] = "83 63 ";
    memcpy(padded, text, strlen(text));
    for (size_t i = 0; i < 31; i++)
        sprintf(hex + 6 + 2 * i, "%02x", (uint8_t)padded[i]);
    golden(line, TRANSCODE_FROM, hex, wanted);
}

static void test_golden(void)
{
    static const char *const strange[] = {"", "nan", "inf", "1", "1.", ".5", "0x1.0p0", " 1.0", "1.0 ", "1.0e", "1.0e+", "1,0", "--1.0"};
    /* what all understand */
    ALL("83 6101", "836101");
    ALL("83 62ffffffff", "8362ffffffff");
    ALL("83 6a", "836a");
    ALL("83 463ff0000000000000", "83463ff0000000000000");
    OTP("83 6400016b", "836400016b");
    FROM("83 6400016b", "836400016b");
    LING("83 6400016b", "8373016b");
    LING("83 640002e9ff", "837302e9ff");
    ALL("83 73016b", "8373016b");
    ALL("83 6b00020102", "836b00020102");
    ALL("83 6d0000000161", "836d0000000161");
    ALL("83 4d0000000103e0", "834d0000000103e0");
    ALL("83 6803610161026103", "836803610161026103");
    ALL("83 6800", "836800");
    ALL("83 6c00000001 6101 6a", "836c0000000161016a");
    ALL("83 6c00000001 6101 6102", "836c0000000161016102");
    ALL("83 6e080000000000000000 80", "836e08000000000000000080");
    ALL("83 71 73016c 7301 6d 6102", "837173016c73016d6102");
    /* maps */
    OTP("83 7400000001 6101 6102", "83740000000161016102");
    FROM("83 7400000001 6101 6102", "83740000000161016102");
    LING("83 7400000000", "!a map would end a LING node (ling_maps allows it)");
    /* atoms in UTF-8 */
    OTP("83 7702c3a9", "837702c3a9");
    FROM("83 7702c3a9", "837702c3a9");
    LING("83 77016b", "8373016b");
    LING("83 7702c3a9", "837301e9");
    LING("83 760002c2a9", "837301a9");
    LING("83 7703e282ac", "!LING has no such atom: it is not latin-1");
    LING("83 71 77016c 77016d 6102", "837173016c73016d6102");
    ALL("83 7702c328", "!an atom that is not UTF-8");
    ALL("83 7702c080", "!an atom that is not UTF-8");
    ALL("83 7703eda080", "!an atom that is not UTF-8");
    ALL("83 7704f4908080", "!an atom that is not UTF-8");
    ALL("83 7701e9", "!an atom that is not UTF-8");
    /* integers as they are written */
    ALL("83 6e0100ff", "8361ff");
    ALL("83 6e0000", "836100");
    ALL("83 6e0101ff", "8362ffffff01");
    ALL("83 6e010100", "836100");
    ALL("83 6e040100000080", "836280000000");
    ALL("83 6e0400ffffff7f", "83627fffffff");
    ALL("83 6e040000000080", "836e040000000080");
    ALL("83 6e06020000000080 00", "836e05010000000080");
    ALL("83 6f00000006000000000080 00", "836e05000000000080");
    ALL("83 6f00000009000000000000000000 01", "836e0900000000000000000001");
    /* floats */
    ALL("83 467ff0000000000000", "!a float that is not finite");
    ALL("83 46fff8000000000000", "!a float that is not finite");
    old_float(__LINE__, "1.50000000000000000000e+00", "83463ff8000000000000");
    old_float(__LINE__, "-1.50000000000000000000e+00", "8346bff8000000000000");
    old_float(__LINE__, "1.0", "83463ff0000000000000");
    old_float(__LINE__, "1.0e-400", "83460000000000000000");
    old_float(__LINE__, "1.0e999", "!a float that is not finite");
    for (size_t i = 0; i < sizeof strange / sizeof *strange; i++)
        old_float(__LINE__, strange[i], "!an old float that is not a number");
    FROM("83 63 312e30", "!the term is cut short");
    /* bitstrings: the last of these ends an OTP 28.5 */
    FROM("83 4d0000000108ff", "836d00000001ff");
    FROM("83 4d0000000000", "836d00000000");
    FROM("83 4d0000000020", "!the last byte of a bitstring has 1 to 8 bits");
    FROM("83 4d0000000100ff", "!the last byte of a bitstring has 1 to 8 bits");
    FROM("83 4d0000000109ff", "!the last byte of a bitstring has 1 to 8 bits");
    FROM("83 4d0000000003", "!the last byte of a bitstring has 1 to 8 bits");
    /* containers in strange sizes */
    ALL("83 6900000001 6101", "8368016101");
    ALL("83 6900000000", "836800");
    ALL("83 6c00000000 6a", "836a");
    ALL("83 6c00000000 6c00000000 6102", "836102");
    ALL("83 6cffffffff 6a", "!the term is cut short");
    ALL("83 69ffffffff 6a", "!the term is cut short");
    FROM("83 74ffffffff 6a", "!the term is cut short");
    ALL("83 6dffffffff 6a", "!the term is cut short");
    ALL("83 6f7fffffff006a", "!the term is cut short");
    /* pids */
    OTP("83 58 7703614062 00000001 00000002 00000003", "83P");
    LING("83 58 7703614062 00000001 00000002 00000003", "83P");
    FROM("83 58 7703614062 00000001 00000002 00000003", "83P");
    FROM("83 67 73056c6f63616c 00000001 00000002 00", "83P");
    FROM("83 67 73056c6f63616c 00000001 00000002 04", "!an old creation above 3");
    FROM("83 a0 0000000000000000 00000005 00000006", "83L");
    FROM("83 a0 0000000000000000 00000005 000000", "!the term is cut short");
    LING("83 a0 0000000000000000 00000005 00000006", "!no term has this tag");
    /* references */
    OTP("83 5a 0001 7703614062 00000001 00000002", "835a000177036140620000000100000002");
    OTP("83 5a 0001 770d6e6f6e6f6465406e6f686f7374 00000000 00000002", "83R");
    OTP("83 5a 0001 64000d6e6f6e6f6465406e6f686f7374 00000000 00000002", "83R");
    OTP("83 5a 0001 770d6e6f6e6f6465406e6f686f7374 00000001 00000002", "835a0001770d6e6f6e6f6465406e6f686f73740000000100000002");
    LING("83 5a 0001 7703614062 00000001 00000002", "83R");
    FROM("83 5a 0001 7703614062 00000001 00000002", "83R");
    FROM("83 72 0003 73056c6f63616c 00 000000010000000200000003", "83R");
    FROM("83 65 64000161 00000001 00", "83R");
    FROM("83 5a 0000 7703614062 00000001", "!a reference has 1 to 5 words");
    FROM("83 5a 0006 7703614062 00000001", "!a reference has 1 to 5 words");
    FROM("83 72 0001 73016c 04 00000001", "!an old creation above 3");
    /* aliases, and what only looks like one */
    OTP("83 6c00000001 7705616c696173 5a0001 7703614062 00000001 00000002", "83A");
    LING("83 6c00000001 640005616c696173 5a0001 7703614062 00000001 00000002", "83A");
    FROM("83 6c00000001 7705616c696173 5a0001 7703614062 00000001 00000002", "836c000000017705616c696173R");
    OTP("83 6c00000001 7705616c696173 6a", "836c000000017705616c6961736a");
    LING("83 6c00000001 7705616c696173 6a", "836c000000017305616c6961736a");
    OTP("83 6c00000002 7705616c696173 6101 5a0001 7703614062 00000001 00000002",
        "836c000000027705616c69617361015a000177036140620000000100000002");
    OTP("83 6c00000001 7705616c696173", "!the term is cut short");
    OTP("83 6c00000001", "!the term is cut short");
    /* From */
#define A_PID "58 7703614062 00000001 00000002 00000003"
#define A_REF "5a 0001 7703614062 00000001 00000002"
#define AN_ALIAS "6c00000001 7705616c696173" A_REF
    OTP("83 6802" A_PID AN_ALIAS, "836802PA*");
    LING("83 6802" A_PID A_REF, "836802PR*");
    LING("83 6803" A_PID A_REF "6a", "836803PR6a");
    LING("83 6802" A_REF A_REF, "836802RR");
    LING("83 6802" A_PID "6801" A_REF, "836802P6801R");
    LING("83 6802 6801" A_PID A_REF, "8368026801PR");
    LING("83 6802 6101" A_REF, "8368026101R");
    OTP("83 6802" A_PID "6c00000001" AN_ALIAS "73016b", "836802P6c00000001A*73016b");
    LING("83 6802" A_PID "6c00000002" A_REF A_REF "6a", "836802P6c00000002R*R6a");
    LING("83 6802" A_PID "6c00000001 6101" A_REF, "836802P6c000000016101R");
    LING("83 6802 6101 6c00000001" A_REF "6a", "83680261016c00000001R6a");
    /* ports */
    OTP("83 78 7703614062 0000000000000005 00000002", "83787703614062000000000000000500000002");
    LING("83 78 7703614062 0000000000000005 00000002", "8366730361406200000005" "02");
    LING("83 59 7703614062 00000005 00000002", "836673036140620000000502");
    LING("83 66 7703614062 00000005 02", "836673036140620000000502");
    LING("83 66 7303614062 00040000 02", "!LING has no such port: its numbers are too large");
    LING("83 78 7703614062 0000000100000005 00000002", "!LING has no such port: its numbers are too large");
    LING("83 59 7703614062 00000005 00000004", "!LING has no such port: its numbers are too large");
    FROM("83 66 7303614062 00000005 07", "!an old creation above 3");
    /* never */
    ALL("83 70 00000000", "!funs don't cross a straw");
    ALL("83 75 00000000", "!funs don't cross a straw");
    ALL("83 50 00000000", "!compressed terms don't cross a straw");
    ALL("83 79 00000000", "!no term with this tag crosses a straw");
    ALL("83 43 00000000", "!no term with this tag crosses a straw");
    ALL("83 5200", "!no term with this tag crosses a straw");
    ALL("83 83", "!no term with this tag crosses a straw");
    ALL("83 6101 61", "!data after the term");
    ALL("84 6101", "!a term begins with 131");
    ALL("83", "!the term is cut short");
    ALL("", "!the term is cut short");
}

static void envelope_is(const char *in, int wanted, bool address_hole)
{
    uint8_t bytes[512];
    Run r = run(TRANSCODE_FROM, true, false, bytes, unhex(in, bytes));
    CHECK(r.result == wanted);
    CHECK(r.t.address_hole == address_hole);
    end(&r);
}

static void test_envelope(void)
{
#define ENVELOPE "7708656e76656c6f7065"
    envelope_is("83 6803" ENVELOPE "73016b 6101", 0, false);
    envelope_is("83 6803" ENVELOPE "73016b a0 0000000000000000 00000005 00000006", 0, false);
    envelope_is("83 6803" ENVELOPE "a0 0000000000000000 00000005 00000006 6101", 0, true);
    envelope_is("83 6803" ENVELOPE "6801 a0 0000000000000000 00000005 00000006 6101", 0, false);
    envelope_is("83 6900000003" ENVELOPE A_PID "6101", 0, true);
    envelope_is("83 6803 640008656e76656c6f7065 73016b 6101", 0, false);
    envelope_is("83 6803 640008656e76656c6f7066 73016b 6101", -EINVAL, false);
    envelope_is("83 6802" ENVELOPE "73016b", -EINVAL, false);
    envelope_is("83 6804" ENVELOPE "73016b 6101 6101", -EINVAL, false);
    envelope_is("83 6803" ENVELOPE "73016b 6101 6101", -EINVAL, false);
    envelope_is("83 6803" ENVELOPE "73016b", -EINVAL, false);
    envelope_is("83 6803" ENVELOPE, -EINVAL, false);
    envelope_is("83 6803", -EINVAL, false);
    envelope_is("83 68", -EINVAL, false);
    envelope_is("83 69000000", -EINVAL, false);
    envelope_is("83 6a", -EINVAL, false);
}

/* ---- limits ---- */

static uint8_t *nested(unsigned lists, const char *inner, size_t *size)
{
    uint8_t *bytes = malloc(1 + 6 * (size_t)lists + 64);
    size_t n = 0;
    CHECK(bytes != NULL);
    bytes[n++] = 131;
    for (unsigned i = 0; i < lists; i++) {
        memcpy(bytes + n, "\x6c\0\0\0\1", 5);
        n += 5;
    }
    n += unhex(inner, bytes + n);
    memset(bytes + n, 106, lists);
    *size = n + lists;
    return bytes;
}

static void depth_is(TranscodeWay way, unsigned lists, const char *inner, bool taken)
{
    size_t size, filled;
    uint8_t *bytes = nested(lists, inner, &size);
    Run r = run(way, false, false, bytes, size);
    CHECK(r.result == (taken ? 0 : -EINVAL));
    if (taken) {
        uint8_t *result = fill(&r, &filled);
        CHECK(refused(result, filled, way == TRANSCODE_TO_LING, false) == NULL);
        free(result);
    } else {
        CHECK(strcmp(r.t.error, "nested more than 1000 deep") == 0);
        if (way == TRANSCODE_TO_LING)
            CHECK(refused(bytes, size, true, false) != NULL);
    }
    end(&r);
    free(bytes);
}

static void test_limits(void)
{
    depth_is(TRANSCODE_TO_OTP, 1000, "6101", true);
    depth_is(TRANSCODE_TO_OTP, 1001, "6101", false);
    depth_is(TRANSCODE_FROM, 1000, "6101", true);
    depth_is(TRANSCODE_FROM, 1001, "6101", false);
    depth_is(TRANSCODE_FROM, 100000, "6101", false);
    depth_is(TRANSCODE_TO_LING, 999, "6101", true);
    depth_is(TRANSCODE_TO_LING, 999, "6800", true);
    depth_is(TRANSCODE_TO_LING, 1000, "6101", false);
    depth_is(TRANSCODE_TO_LING, 998, "71 73016c 73016d 6102", true);
    depth_is(TRANSCODE_TO_LING, 999, "71 73016c 73016d 6102", false);

    /* atoms */
    for (unsigned size = 254; size <= 257; size++) {
        uint8_t bytes[4 + 300] = {131, 100, (uint8_t)(size >> 8), (uint8_t)size};
        memset(bytes + 4, 'a', size);
        for (int way = 0; way < 3; way++) {
            Run r = run((TranscodeWay)way, false, false, bytes, 4 + size);
            CHECK(r.result == (size <= 255 ? 0 : -EINVAL));
            end(&r);
        }
    }
    uint8_t wide[4 + 4 * 256] = {131, 118, 0x03, 0xFC};
    for (unsigned i = 0; i < 256; i++)
        memcpy(wide + 4 + 4 * i, "\xF0\x9F\x9A\x80", 4);
    Run r = run(TRANSCODE_FROM, false, false, wide, 4 + 4 * 255);
    CHECK(r.result == 0);
    end(&r);
    wide[2] = 4, wide[3] = 0;
    r = run(TRANSCODE_FROM, false, false, wide, 4 + 4 * 256);
    CHECK(r.result == -EINVAL);
    end(&r);

    /* integers going out */
    uint8_t *big = malloc(TRANSCODE_MAX_BIG + 8);
    CHECK(big != NULL);
    memset(big, 1, TRANSCODE_MAX_BIG + 8);
    for (uint32_t count = TRANSCODE_MAX_BIG; count <= TRANSCODE_MAX_BIG + 1; count++) {
        memcpy(big, "\x83\x6f\0\0\0\0\0", 7);
        big[3] = (uint8_t)(count >> 16), big[4] = (uint8_t)(count >> 8), big[5] = (uint8_t)count;
        for (int way = 0; way < 3; way++) {
            r = run((TranscodeWay)way, false, false, big, 7 + count);
            CHECK(r.result == (count > TRANSCODE_MAX_BIG && way != TRANSCODE_FROM ? -EINVAL : 0));
            end(&r);
        }
    }
    free(big);

    /* holes */
    size_t size = 1 + 5 + 17 * (size_t)(TRANSCODE_MAX_HOLES + 1) + 1;
    uint8_t *pids = malloc(size);
    CHECK(pids != NULL);
    for (unsigned count = TRANSCODE_MAX_HOLES; count <= TRANSCODE_MAX_HOLES + 1; count++) {
        memcpy(pids, "\x83\x6c\0\0\0\0", 6);
        pids[3] = (uint8_t)(count >> 16), pids[4] = (uint8_t)(count >> 8), pids[5] = (uint8_t)count;
        for (unsigned i = 0; i < count; i++)
            memcpy(pids + 6 + 17 * i, LING_PID, 17);
        pids[6 + 17 * count] = 106;
        r = run(TRANSCODE_FROM, false, false, pids, 7 + 17 * (size_t)count);
        CHECK(r.result == (count <= TRANSCODE_MAX_HOLES ? 0 : -EINVAL));
        CHECK(count > TRANSCODE_MAX_HOLES || r.t.holes == count);
        end(&r);
    }
    free(pids);

    /* the frame: a binary that fills it is one piece, not copied */
    uint8_t *frame = calloc(1, TRANSCODE_MAX_FRAME + 1);
    CHECK(frame != NULL);
    for (uint32_t extra = 0; extra < 2; extra++) {
        uint32_t count = TRANSCODE_MAX_FRAME - 6 + extra;
        memcpy(frame, (uint8_t[]){131, 109, (uint8_t)(count >> 24), (uint8_t)(count >> 16), (uint8_t)(count >> 8), (uint8_t)count}, 6);
        r = run(TRANSCODE_TO_LING, false, false, frame, TRANSCODE_MAX_FRAME + extra);
        CHECK(r.result == (extra ? -EMSGSIZE : 0));
        CHECK(extra || (r.t.count == 1 && r.t.pieces[0].kind == PIECE_INPUT && r.t.out_size == 0));
        end(&r);
    }
    free(frame);
}

/* No more memory than told: a resize that refuses. */
static void *refuse_memory(void *context, void *memory, size_t size)
{
    size_t *left = context;
    (void)memory, (void)size;
    if (*left == 0)
        return NULL;
    *left -= 1;
    return realloc(memory, size);
}

static void test_no_memory(void)
{
    uint8_t bytes[600] = {131, 104, 100};
    for (int i = 0; i < 100; i++)
        memcpy(bytes + 3 + 4 * i, "\x77\2\xC3\xA9", 4);
    for (size_t allowed = 0; allowed < 3; allowed++) {
        size_t left = allowed;
        Transcode t = {.in = bytes, .size = 403, .way = TRANSCODE_TO_LING, .resize = refuse_memory, .context = &left};
        CHECK(transcode(&t) == (allowed < 2 ? -ENOMEM : 0));
        transcode_free(&t);
        free(t.out);
    }
}

/* Parts as term_to_iovec makes them, and others, give what the whole gives or are refused. */
static void test_parts(void)
{
    uint8_t bytes[512];
    size_t size = unhex("83 6803 7708656e76656c6f7065 73016b 6804 6d00000003616263 58 7703614062 00000001 00000002 00000003"
                        "4d00000002 03 61e0 6d0000000178", bytes);
    size_t data[][2] = {{23, 26}, {50, 52}, {57, 58}};
    unsigned taken = 0;
    for (unsigned cut = 0; cut < 8; cut++) {
        TranscodePart parts[16];
        size_t count = 0, at = 0;
        for (unsigned i = 0; i < 3; i++) {
            if ((cut >> i & 1) == 0)
                continue;
            parts[count++] = (TranscodePart){bytes + at, data[i][0] - at};
            parts[count++] = (TranscodePart){bytes + data[i][0], data[i][1] - data[i][0]};
            at = data[i][1];
        }
        if (at < size || count == 0)
            parts[count++] = (TranscodePart){bytes + at, size - at};
        for (int way = 0; way < 2; way++) {
            Run whole = run((TranscodeWay)way, true, false, bytes, size);
            Run r = {.t = {.in = parts[0].bytes, .size = parts[0].size, .more = parts + 1, .more_count = count - 1,
                           .way = (TranscodeWay)way, .envelope = true}};
            size_t a, b;
            CHECK(whole.result == 0);
            CHECK((r.result = transcode(&r.t)) == 0);
            uint8_t *one = fill(&whole, &a), *two = fill(&r, &b);
            CHECK(a == b && memcmp(one, two, a) == 0);
            free(one), free(two);
            end(&whole), end(&r);
            taken++;
        }
    }
    CHECK(taken == 16);
    /* cut anywhere, once or twice: never more than is there */
    for (size_t i = 0; i <= size; i++) {
        for (size_t j = i; j <= size; j++) {
            uint8_t *copies[3];
            TranscodePart parts[3] = {{bytes, i}, {bytes + i, j - i}, {bytes + j, size - j}};
            for (int k = 0; k < 3; k++) {
                copies[k] = malloc(parts[k].size + (parts[k].size == 0));
                memcpy(copies[k], parts[k].bytes, parts[k].size);
                parts[k].bytes = copies[k];
            }
            Transcode t = {.in = parts[0].bytes, .size = i, .more = parts + 1, .more_count = 2, .way = TRANSCODE_TO_LING};
            int result = transcode(&t);
            CHECK(result == 0 || result == -EINVAL);
            transcode_free(&t);
            for (int k = 0; k < 3; k++)
                free(copies[k]);
        }
    }
}

/* What takes long is given up when that is wished. */
static void test_steps(void)
{
    static uint8_t many[200008] = {131, 108, 0, 3, 0x0D, 0x40}; /* 200,000 elements */
    memset(many + 6, 106, 200001);
    Transcode t = {.in = many, .size = 200007, .way = TRANSCODE_FROM};
    CHECK(transcode(&t) == 0 && t.taken >= 200000);
    transcode_free(&t);
    t = (Transcode){.in = many, .size = 200007, .way = TRANSCODE_FROM, .steps = 100000};
    CHECK(transcode(&t) == -EAGAIN);
    transcode_free(&t);
    t = (Transcode){.in = many, .size = 200007, .way = TRANSCODE_FROM, .steps = 300000};
    CHECK(transcode(&t) == 0);
    transcode_free(&t);
    /* a binary is one step, an integer is not */
    memcpy(many, (uint8_t[]){131, 109, 0, 3, 0x0D, 0x40}, 6);
    t = (Transcode){.in = many, .size = 200006, .way = TRANSCODE_FROM, .steps = 10};
    CHECK(transcode(&t) == 0);
    transcode_free(&t);
    memcpy(many, (uint8_t[]){131, 111, 0, 3, 0x0D, 0x40, 0}, 7);
    t = (Transcode){.in = many, .size = 200007, .way = TRANSCODE_FROM, .steps = 1000};
    CHECK(transcode(&t) == -EAGAIN);
    transcode_free(&t);
}

/* ---- random terms, and mutations ---- */

static uint64_t state = 88172645463325252ull;

static uint64_t next(uint64_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below ? state % below : state;
}

typedef struct {
    uint8_t *bytes;
    size_t size, room;
} Text;

static void add(Text *t, const void *bytes, size_t size)
{
    while (t->room - t->size < size) {
        t->room = t->room ? 2 * t->room : 256;
        t->bytes = realloc(t->bytes, t->room);
        CHECK(t->bytes != NULL);
    }
    memcpy(t->bytes + t->size, bytes, size);
    t->size += size;
}

static void add_number(Text *t, uint64_t number, unsigned bytes)
{
    while (bytes-- > 0) {
        uint8_t byte = (uint8_t)(number >> 8 * bytes);
        add(t, &byte, 1);
    }
}

static void add_noise(Text *t, size_t size)
{
    while (size-- > 0)
        add_number(t, next(256), 1);
}

static void add_atom(Text *t)
{
    static const char *const names[] = {"ok", "alias", "local", "a@b", "\xC3\xA9t\xC3\xA9", "\xE2\x82\xAC", "", "envelope"};
    const char *name = names[next(8)];
    size_t size = strlen(name);
    bool ascii = true;
    for (size_t i = 0; i < size; i++)
        ascii = ascii && (name[i] & 0x80) == 0;
    switch (next(ascii ? 4 : 2)) {
    case 0:
        add_number(t, 119, 1), add_number(t, size, 1);
        break;
    case 1:
        add_number(t, 118, 1), add_number(t, size, 2);
        break;
    case 2:
        add_number(t, 115, 1), add_number(t, size, 1);
        break;
    default:
        add_number(t, 100, 1), add_number(t, size, 2);
    }
    add(t, name, size);
}

static void add_ref(Text *t)
{
    uint64_t words = 1 + next(next(8) ? 3 : 6);
    if (next(2)) {
        add_number(t, 90, 1), add_number(t, words, 2);
        add_atom(t);
        add_noise(t, 4);
    } else {
        add_number(t, 114, 1), add_number(t, words, 2);
        add_atom(t);
        add_number(t, next(next(8) ? 4 : 256), 1);
    }
    add_noise(t, 4 * words);
}

static void add_term(Text *t, unsigned depth)
{
    static const uint8_t leaves[] = {97, 98, 70, 100, 106, 107, 109, 77, 110, 111, 88, 103, 160, 90, 114, 101, 89, 120, 102, 113, 99};
    uint64_t n = next(40);
    if (depth > 0 && n < 14) {
        uint64_t count = next(next(10) ? 4 : 400);
        if (n == 0) { /* From */
            add(t, "\x68\2", 2);
            add(t, OTP_PID, sizeof OTP_PID);
            if (next(2))
                add(t, "\x6c\0\0\0\1\x64\0\5" "alias", 13);
            add_ref(t);
            return;
        }
        if (n < 5 && count < 256)
            add_number(t, 104, 1), add_number(t, count, 1);
        else if (n < 5 || n == 13)
            add_number(t, 105, 1), add_number(t, count, 4);
        else if (n < 11)
            add_number(t, 108, 1), add_number(t, count, 4), count++;
        else
            add_number(t, 116, 1), add_number(t, count, 4), count *= 2;
        depth = count > 20 ? 0 : depth - 1;
        for (uint64_t i = 0; i < count; i++)
            add_term(t, depth);
        return;
    }
    uint8_t tag = leaves[next(sizeof leaves)];
    if (tag == 100) {
        add_atom(t);
        return;
    }
    if (tag == 90) {
        add_ref(t);
        return;
    }
    add(t, &tag, 1);
    switch (tag) {
    case 97:
        add_noise(t, 1);
        break;
    case 98:
        add_noise(t, 4);
        break;
    case 70:
        add_number(t, next(next(10) ? 0x7FF : 0x800), 2), add_noise(t, 6);
        break;
    case 107:
    case 109:
        n = next(next(10) ? 20 : 1000);
        add_number(t, n, tag == 107 ? 2 : 4), add_noise(t, n);
        break;
    case 77:
        n = next(10);
        add_number(t, n, 4), add_number(t, next(10), 1), add_noise(t, n);
        break;
    case 110:
    case 111:
        n = next(12);
        add_number(t, n, tag == 110 ? 1 : 4), add_number(t, next(3), 1);
        for (uint64_t i = 0; i < n; i++)
            add_number(t, next(3) ? 0 : next(256), 1);
        break;
    case 88:
        add_atom(t), add_noise(t, 12);
        break;
    case 103:
        add_atom(t), add_noise(t, 8), add_number(t, next(5), 1);
        break;
    case 160:
        add_noise(t, 16);
        break;
    case 114:
        add_number(t, 1, 2), add_atom(t), add_number(t, next(5), 1), add_noise(t, 4);
        break;
    case 101:
        add_atom(t), add_noise(t, 4), add_number(t, next(5), 1);
        break;
    case 89:
        add_atom(t), add_noise(t, 8);
        break;
    case 120:
        add_atom(t), add_number(t, next(3) ? next(1000) : next(0), 8), add_number(t, next(3) ? next(4) : next(0), 4);
        break;
    case 102:
        add_atom(t), add_number(t, next(1 << 19), 4), add_number(t, next(5), 1);
        break;
    case 113:
        add_atom(t), add_atom(t), add_number(t, next(30) ? 97 : 98, 1), add_noise(t, 1);
        break;
    case 99: {
        char text[31] = {0};
        snprintf(text, sizeof text, "%.20e", (double)(int64_t)next(0) / 1e6);
        add(t, text, 31);
    }
    }
}

/* Whatever it is: no crash, and what comes out is what its reader takes. 1 when anything came out. */
static int try_all(const uint8_t *bytes, size_t size)
{
    int taken = 0;
    for (int way = 0; way < 4; way++) {
        bool maps = way == 3;
        TranscodeWay to = maps ? TRANSCODE_TO_LING : (TranscodeWay)way;
        Run r = run(to, next(16) == 0, maps, bytes, size);
        CHECK(r.result == 0 || (r.result == -EINVAL && r.t.error != NULL && r.t.error_at <= size));
        if (r.result == 0) {
            size_t filled;
            uint8_t *result = fill(&r, &filled);
            const char *why = to == TRANSCODE_TO_OTP ? NULL : refused(result, filled, to == TRANSCODE_TO_LING, maps);
            if (why != NULL) {
                fprintf(stderr, "way %d: %s\n", way, why);
                for (size_t i = 0; i < size; i++)
                    fprintf(stderr, "%02x", bytes[i]);
                exit(1);
            }
            /* what goes out can come in, and what came in is as it must be: nothing changes any more */
            Run again = run(TRANSCODE_FROM, false, false, result, filled);
            CHECK(again.result == 0);
            if (to == TRANSCODE_FROM)
                CHECK(again.t.holes == r.t.holes && again.t.total == r.t.total);
            else
                CHECK(again.t.holes >= r.t.holes);
            end(&again);
            free(result);
            taken++;
        }
        end(&r);
    }
    return taken;
}

static void fuzz(long rounds)
{
    long taken = 0;
    for (long i = 0; i < rounds; i++) {
        Text t = {0};
        alarm(20);
        add(&t, "\x83", 1);
        if (next(2))
            add(&t, "\x68\3\x77\x08" "envelope", 12), add_term(&t, 0);
        add_term(&t, 1 + (unsigned)next(5));
        taken += try_all(t.bytes, t.size);
        for (uint64_t m = next(4); m > 0; m--) {
            for (uint64_t n = 1 + next(3); n > 0; n--) {
                size_t at = next(t.size);
                switch (next(4)) {
                case 0:
                    t.bytes[at] = (uint8_t)next(256);
                    break;
                case 1:
                    t.bytes[at] = (uint8_t[]){0, 1, 255, 97, 104, 106, 108, 160, 90, 77}[next(10)];
                    break;
                case 2:
                    t.bytes[at] ^= (uint8_t)(1 << next(8));
                    break;
                default:
                    t.size = at + 1;
                }
            }
            taken += try_all(t.bytes, t.size);
        }
        free(t.bytes);
    }
    CHECK(rounds < 100 || taken > rounds / 4);
}

int main(int count, char **arguments)
{
    uint64_t seed = count > 1 ? strtoull(arguments[1], NULL, 10) : 1;
    state += seed * 2654435761u;
    test_golden();
    test_envelope();
    test_limits();
    test_no_memory();
    test_steps();
    test_parts();
    fuzz(count > 2 ? strtol(arguments[2], NULL, 10) : 20000);
    puts("ok");
    return 0;
}
