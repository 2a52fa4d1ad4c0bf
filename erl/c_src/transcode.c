/* The walk over one external term: one loop, a stack of what is still to come, and a writer that copies nothing which
 * can stay where it is. */
#include "transcode.h"

#include "../../csrc/include/etf_tags.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ATOM_CHARS 255     /* OTP's limit and LING's, in characters */
#define LING_ID_LIMIT (1 << 18) /* LING keeps 18 bits of a port's id and of a reference's first word */
#define SHORT_RUN 128          /* unchanged bytes up to here are copied after own ones: a piece costs more */
#define TRUNCATED "the term is cut short"

/* Something that is being read: so many terms of it are still to come. */
typedef struct {
    uint64_t left, count;
    bool pair;      /* a tuple of two */
    bool pid_first; /* of a pair: its first is a pid's hole */
    bool beside;    /* a list that is the second of such a pair: a From with a label, {Pid, [Tag | Label]} */
} Level;

typedef struct {
    Transcode *t;
    const uint8_t *p, *end;
    const uint8_t *base; /* of the part that p is in */
    uint32_t part;
    const uint8_t *run; /* from here to p nothing has been passed on yet */
    unsigned depth;     /* terms around the one that is read next */
    unsigned max_depth;
    Level levels[TRANSCODE_MAX_DEPTH + 1];
} Walk;

static inline uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t get64(const uint8_t *p)
{
    return (uint64_t)get32(p) << 32 | get32(p + 4);
}

static inline void put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)(v >> 24);
    p[1] = (uint8_t)(v >> 16);
    p[2] = (uint8_t)(v >> 8);
    p[3] = (uint8_t)v;
}

static int refuse(Walk *w, const uint8_t *at, const char *error)
{
    w->t->error = error;
    w->t->error_at = (size_t)(at - w->base);
    return -EINVAL;
}

static inline size_t have(const Walk *w)
{
    return (size_t)(w->end - w->p);
}

/* ---- the writer ---- */

static int piece_add(Transcode *t, TranscodeKind kind, bool from, uint32_t part, size_t at, size_t size)
{
    if (kind == PIECE_OUTPUT && t->count > 0) {
        TranscodePiece *last = &t->pieces[t->count - 1];
        if (last->kind == PIECE_OUTPUT) {
            last->size += (uint32_t)size;
            return 0;
        }
    }
    if (t->count == t->room && t->pieces == NULL && t->first != NULL) {
        t->pieces = t->first;
        t->room = t->first_room;
    }
    if (t->count == t->room) {
        TranscodePiece *before = t->pieces == t->first ? NULL : t->pieces;
        size_t room = t->room == 0 ? 16 : 2 * t->room;
        TranscodePiece *more = realloc(before, room * sizeof *more);
        if (more == NULL)
            return -ENOMEM;
        if (before == NULL && t->count != 0)
            memcpy(more, t->first, t->count * sizeof *more);
        t->pieces = more;
        t->room = room;
    }
    t->pieces[t->count++] = (TranscodePiece){(uint8_t)kind, from, part, (uint32_t)at, (uint32_t)size};
    return 0;
}

/* Own bytes into the result. */
static int put(Walk *w, const uint8_t *bytes, size_t size)
{
    Transcode *t = w->t;
    if (t->out_room - t->out_size < size) {
        size_t room = t->out_room == 0 ? 256 : 2 * t->out_room;
        while (room - t->out_size < size)
            room *= 2;
        void *more = t->resize ? t->resize(t->context, t->out, room) : realloc(t->out, room);
        if (more == NULL)
            return -ENOMEM;
        t->out = more;
        t->out_room = room;
    }
    size_t at = t->out_size;
    memcpy(t->out + at, bytes, size);
    t->out_size += size;
    t->total += size;
    return piece_add(t, PIECE_OUTPUT, false, 0, at, size);
}

/* What was read unchanged until `stop` goes on as it is. */
static int flush(Walk *w, const uint8_t *stop)
{
    Transcode *t = w->t;
    size_t size = (size_t)(stop - w->run);
    const uint8_t *run = w->run;
    if (size == 0)
        return 0;
    w->run = stop;
    if (size <= SHORT_RUN && t->count > 0 && t->pieces[t->count - 1].kind == PIECE_OUTPUT)
        return put(w, run, size);
    t->total += size;
    return piece_add(t, PIECE_INPUT, false, w->part, (size_t)(run - w->base), size);
}

/* The input from `begin` to p is replaced by these bytes. */
static int replace(Walk *w, const uint8_t *begin, const uint8_t *bytes, size_t size)
{
    int result = flush(w, begin);
    if (result == 0 && size > 0)
        result = put(w, bytes, size);
    w->run = w->p;
    return result;
}

/* The input from `begin` to p is replaced by a hole for the term that begins at `term`. */
static int hole(Walk *w, const uint8_t *begin, const uint8_t *term, TranscodeKind kind)
{
    Transcode *t = w->t;
    Level *level = &w->levels[w->depth];
    bool from = false;
    if (t->holes == TRANSCODE_MAX_HOLES)
        return refuse(w, begin, "more than 65536 pids and references in one message");
    if (t->steps != 0 && t->holes >= t->steps / 8)
        return -EAGAIN;
    t->holes++;
    if (kind == PIECE_PID || kind == PIECE_LING_PID)
        level->pid_first = level->pair && level->left == 1;
    else
        from = (level->pid_first && level->left == 0) || (level->beside && level->left == level->count - 1);
    int result = flush(w, begin);
    if (result == 0)
        result = piece_add(t, kind, from, w->part, (size_t)(term - w->base), (size_t)(w->p - term));
    w->run = w->p;
    return result;
}

/* ---- atoms ---- */

typedef struct {
    const uint8_t *begin, *text;
    size_t size;
    bool latin1; /* how it is written */
} AtomText;

/* Length of the UTF-8 character at p, 0 when it is none. */
static unsigned utf8_char(const uint8_t *p, size_t size)
{
    if (p[0] < 0x80)
        return 1;
    unsigned length = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    if (p[0] < 0xC2 || p[0] > 0xF4 || size < length)
        return 0;
    for (unsigned i = 1; i < length; i++)
        if ((p[i] & 0xC0) != 0x80)
            return 0;
    if ((p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) || (p[0] == 0xF0 && p[1] < 0x90) ||
        (p[0] == 0xF4 && p[1] > 0x8F))
        return 0; /* too long a form, half a surrogate pair, beyond Unicode */
    return length;
}

/* Reads the atom at p and moves past it. */
static int read_atom(Walk *w, AtomText *atom)
{
    const uint8_t *p = w->p;
    if (have(w) < 2)
        return refuse(w, w->end, TRUNCATED);
    size_t head = *p == TAG_SMALL_ATOM_UTF8 || *p == TAG_SMALL_ATOM ? 2 : 3;
    if (head == 3 && *p != TAG_ATOM && *p != TAG_ATOM_UTF8)
        return refuse(w, p, "an atom was expected");
    if (have(w) < head)
        return refuse(w, w->end, TRUNCATED);
    atom->begin = p;
    atom->text = p + head;
    atom->size = head == 2 ? p[1] : get16(p + 1);
    atom->latin1 = *p == TAG_SMALL_ATOM || *p == TAG_ATOM;
    if (have(w) - head < atom->size)
        return refuse(w, w->end, TRUNCATED);
    size_t chars = 0;
    if (atom->latin1) {
        chars = atom->size;
    } else {
        for (size_t i = 0; i < atom->size; chars++) {
            unsigned length = utf8_char(atom->text + i, atom->size - i);
            if (length == 0)
                return refuse(w, p, "an atom that is not UTF-8");
            i += length;
        }
    }
    if (chars > MAX_ATOM_CHARS)
        return refuse(w, p, "an atom of more than 255 characters");
    w->p = atom->text + atom->size;
    return 0;
}

static bool atom_is(const AtomText *atom, const char *name)
{
    return atom->size == strlen(name) && memcmp(atom->text, name, atom->size) == 0;
}

/* An atom of the message: as it is, or as a LING writes it. */
static int walk_atom(Walk *w)
{
    AtomText atom;
    int result = read_atom(w, &atom);
    if (result < 0 || w->t->way != TRANSCODE_TO_LING || *atom.begin == TAG_SMALL_ATOM)
        return result;
    uint8_t latin1[2 + MAX_ATOM_CHARS];
    size_t n = 2;
    for (size_t i = 0; i < atom.size; i++) {
        uint8_t c = atom.text[i];
        if (!atom.latin1 && c > 0xC3)
            return refuse(w, atom.begin, "LING has no such atom: it is not latin-1");
        if (!atom.latin1 && c >= 0x80)
            c = (uint8_t)(c << 6 | (atom.text[++i] & 0x3F));
        latin1[n++] = c;
    }
    latin1[0] = TAG_SMALL_ATOM;
    latin1[1] = (uint8_t)(n - 2);
    return replace(w, atom.begin, latin1, n);
}

/* ---- numbers and bytes ---- */

static int walk_big(Walk *w, size_t head)
{
    const uint8_t *begin = w->p, *digits = begin + head;
    if (have(w) < head)
        return refuse(w, w->end, TRUNCATED);
    size_t size = head == 3 ? begin[1] : get32(begin + 1), count = size;
    uint8_t sign = begin[head - 1];
    if (have(w) - head < size)
        return refuse(w, w->end, TRUNCATED);
    w->p += head + size;
    w->t->taken += size / 16;
    if (w->t->steps != 0 && w->t->taken >= w->t->steps)
        return -EAGAIN;
    while (count > 0 && digits[count - 1] == 0)
        count--;
    if (w->t->way != TRANSCODE_FROM && count > TRANSCODE_MAX_BIG)
        return refuse(w, begin, "an integer of more than 524280 bytes");
    uint64_t magnitude = 0;
    for (size_t i = 0; i < count && i < 8; i++)
        magnitude |= (uint64_t)digits[i] << 8 * i;
    uint8_t bytes[6];
    if (count <= 4 && magnitude <= (uint64_t)INT32_MAX + (sign != 0)) { /* LING dies of no such form, but refuses it */
        if (magnitude < 256 && (sign == 0 || magnitude == 0)) {
            bytes[0] = TAG_SMALL_INTEGER;
            bytes[1] = (uint8_t)magnitude;
            return replace(w, begin, bytes, 2);
        }
        bytes[0] = TAG_INTEGER;
        put32(bytes + 1, sign ? (uint32_t)-magnitude : (uint32_t)magnitude);
        return replace(w, begin, bytes, 5);
    }
    if (count == size && sign <= 1 && (head == 3 || size > 255))
        return 0;
    bytes[0] = count < 256 ? TAG_SMALL_BIG : TAG_LARGE_BIG;
    if (count < 256)
        bytes[1] = (uint8_t)count;
    else
        put32(bytes + 1, (uint32_t)count);
    bytes[count < 256 ? 2 : 5] = sign != 0;
    int result = replace(w, begin, bytes, count < 256 ? 3 : 6);
    if (result < 0)
        return result;
    w->run = digits;
    result = flush(w, digits + count);
    w->run = w->p;
    return result;
}

/* The text of FLOAT_EXT: what printf's %.20e writes, and zeros up to 31 bytes. */
static bool is_float_text(const char *text)
{
    const char *s = text;
    if (*s == '-' || *s == '+')
        s++;
    size_t before = strspn(s, "0123456789");
    s += before;
    if (before == 0 || *s != '.')
        return false;
    size_t after = strspn(++s, "0123456789");
    s += after;
    if (after == 0)
        return false;
    if (*s == 'e' || *s == 'E') {
        s++;
        if (*s == '-' || *s == '+')
            s++;
        size_t digits = strspn(s, "0123456789");
        if (digits == 0)
            return false;
        s += digits;
    }
    return *s == 0;
}

static int walk_old_float(Walk *w)
{
    const uint8_t *begin = w->p;
    char text[32], *stop;
    if (have(w) < 32)
        return refuse(w, w->end, TRUNCATED);
    memcpy(text, begin + 1, 31);
    text[31] = 0;
    w->p += 32;
    if (!is_float_text(text))
        return refuse(w, begin, "an old float that is not a number");
    double number = strtod(text, &stop);
    if (*stop != 0 || !isfinite(number))
        return refuse(w, begin, "a float that is not finite");
    uint64_t bits;
    memcpy(&bits, &number, 8);
    uint8_t bytes[9] = {TAG_NEW_FLOAT};
    put32(bytes + 1, (uint32_t)(bits >> 32));
    put32(bytes + 5, (uint32_t)bits);
    return replace(w, begin, bytes, 9);
}

/* The data of a binary, of which the part that p is in has the head only, are the next whole parts; a bitstring's last
 * byte is in the one after them. */
static int walk_parts(Walk *w, size_t size)
{
    Transcode *t = w->t;
    int result = w->p == w->end && w->part < t->more_count ? flush(w, w->p) : refuse(w, w->end, TRUNCATED);
    while (result == 0 && w->part < t->more_count) {
        const TranscodePart *part = &t->more[w->part++];
        if (size == 0 || part->size > size) { /* it goes on here */
            w->base = w->run = part->bytes;
            w->p = part->bytes + size;
            w->end = part->bytes + part->size;
            return 0;
        }
        size -= part->size;
        t->total += part->size;
        if (part->size > 0)
            result = piece_add(t, PIECE_INPUT, false, w->part, 0, part->size);
    }
    return result < 0 || size == 0 ? result : refuse(w, w->end, TRUNCATED);
}

static int walk_bits(Walk *w)
{
    const uint8_t *begin = w->p;
    if (have(w) < 6)
        return refuse(w, w->end, TRUNCATED);
    size_t size = get32(begin + 1);
    uint8_t bits = begin[5];
    if (have(w) - 6 < size) {
        if (bits < 1 || bits > 7)
            return refuse(w, w->end, TRUNCATED);
        w->p += 6;
        return walk_parts(w, size);
    }
    if (bits > 8 || (bits == 0) != (size == 0))
        return refuse(w, begin, "the last byte of a bitstring has 1 to 8 bits");
    if (bits == 8 || size == 0) { /* whole bytes; OTP 28.5 dies of an empty bitstring in this form */
        uint8_t bytes[5] = {TAG_BINARY};
        put32(bytes + 1, (uint32_t)size);
        w->p += 6;
        int result = replace(w, begin, bytes, 5);
        w->p += size;
        return result;
    }
    w->p += 6 + size;
    return 0;
}

/* ---- pids, ports, references ---- */

static int walk_pid(Walk *w)
{
    const uint8_t *begin = w->p++;
    AtomText node;
    size_t need = *begin == TAG_NEW_PID ? 12 : 9;
    int result = read_atom(w, &node);
    if (result < 0)
        return result;
    if (have(w) < need)
        return refuse(w, w->end, TRUNCATED);
    if (need == 9 && w->p[8] > 3)
        return refuse(w, w->p + 8, "an old creation above 3");
    w->p += need;
    return hole(w, begin, begin, PIECE_PID);
}

static int walk_ling_pid(Walk *w)
{
    const uint8_t *begin = w->p;
    if (w->t->way != TRANSCODE_FROM)
        return refuse(w, begin, "no term has this tag");
    if (have(w) < 17)
        return refuse(w, w->end, TRUNCATED);
    w->p += 17;
    return hole(w, begin, begin, PIECE_LING_PID);
}

static int walk_port(Walk *w)
{
    const uint8_t *begin = w->p++;
    AtomText node;
    size_t id_size = *begin == TAG_V4_PORT ? 8 : 4, creation_size = *begin == TAG_PORT ? 1 : 4;
    bool ling = w->t->way == TRANSCODE_TO_LING;
    int result;
    if (ling && *begin != TAG_PORT) {
        uint8_t tag = TAG_PORT;
        if ((result = replace(w, begin, &tag, 1)) < 0)
            return result;
    }
    const uint8_t *name = w->p;
    if (ling) {
        if ((result = walk_atom(w)) < 0)
            return result;
    } else if ((result = read_atom(w, &node)) < 0) {
        return result;
    }
    const uint8_t *number = w->p;
    if (have(w) < id_size + creation_size)
        return refuse(w, w->end, TRUNCATED);
    uint64_t id = id_size == 8 ? get64(number) : get32(number);
    uint32_t creation = creation_size == 1 ? number[id_size] : get32(number + id_size);
    w->p += id_size + creation_size;
    if (creation_size == 1 && creation > 3)
        return refuse(w, number + id_size, "an old creation above 3");
    if (!ling)
        return 0;
    if (id >= LING_ID_LIMIT || creation > 3)
        return refuse(w, name - 1, "LING has no such port: its numbers are too large");
    uint8_t bytes[5];
    put32(bytes, (uint32_t)id);
    bytes[4] = (uint8_t)creation;
    return replace(w, number, bytes, 5);
}

/* Moves past the reference at p. */
static int read_ref(Walk *w)
{
    const uint8_t *begin = w->p;
    AtomText node;
    size_t words = 1, creation_size = *begin == TAG_NEWER_REFERENCE ? 4 : 1;
    w->p++;
    if (*begin != TAG_REFERENCE) {
        if (have(w) < 2)
            return refuse(w, w->end, TRUNCATED);
        words = get16(w->p);
        w->p += 2;
        if (words < 1 || words > TRANSCODE_MAX_REF_WORDS)
            return refuse(w, begin, "a reference has 1 to 5 words");
    }
    int result = read_atom(w, &node);
    if (result < 0)
        return result;
    if (have(w) < 4 * words + creation_size)
        return refuse(w, w->end, TRUNCATED);
    if (creation_size == 1 && w->p[*begin == TAG_REFERENCE ? 4 : 0] > 3)
        return refuse(w, begin, "an old creation above 3");
    w->p += 4 * words + creation_size;
    return 0;
}

static int walk_ref(Walk *w)
{
    static const char nobody[] = "nonode@nohost";
    const uint8_t *begin = w->p;
    TranscodeName ref;
    int result = read_ref(w);
    if (result < 0)
        return result;
    if (w->t->way == TRANSCODE_TO_OTP) { /* a BEAM's reference crosses to another as it is, if it tells the node */
        transcode_ref(begin, &ref);
        if (ref.creation != 0 || ref.node_size != sizeof nobody - 1 || memcmp(ref.node, nobody, ref.node_size) != 0)
            return 0;
    }
    return hole(w, begin, begin, PIECE_REF);
}

static bool is_ref(uint8_t tag)
{
    return tag == TAG_NEWER_REFERENCE || tag == TAG_NEW_REFERENCE || tag == TAG_REFERENCE;
}

/* [alias|Reference] going out, the tag of gen's calls: 1 when it stood at p and is passed, 0 when not. */
static int walk_alias(Walk *w)
{
    const uint8_t *begin = w->p;
    AtomText atom;
    w->p += 5;
    int result = read_atom(w, &atom);
    if (result < 0 || !atom_is(&atom, "alias") || have(w) == 0 || !is_ref(*w->p)) {
        w->t->error = NULL; /* whatever it is, it is read as usual */
        w->p = begin;
        return 0;
    }
    const uint8_t *ref = w->p;
    if ((result = read_ref(w)) < 0)
        return result;
    result = hole(w, begin, ref, PIECE_ALIAS);
    return result < 0 ? result : 1;
}

/* ---- terms with terms inside ---- */

static int push(Walk *w, const uint8_t *at, uint64_t count)
{
    if (w->depth == w->max_depth)
        return refuse(w, at, "nested more than 1000 deep");
    w->levels[++w->depth] = (Level){count, count, false, false, false};
    return 0;
}

static int walk_tuple(Walk *w, size_t head)
{
    const uint8_t *begin = w->p;
    if (have(w) < head)
        return refuse(w, w->end, TRUNCATED);
    uint32_t count = head == 2 ? begin[1] : get32(begin + 1);
    int result = 0;
    w->p += head;
    if (head == 5 && count < 256) {
        uint8_t bytes[2] = {TAG_SMALL_TUPLE, (uint8_t)count};
        result = replace(w, begin, bytes, 2);
    }
    if (count == 0 || result < 0)
        return result;
    if ((result = push(w, begin, count)) == 0)
        w->levels[w->depth].pair = count == 2;
    return result;
}

static int walk_list(Walk *w)
{
    const uint8_t *begin = w->p;
    if (have(w) < 5)
        return refuse(w, w->end, TRUNCATED);
    uint32_t count = get32(begin + 1);
    int result;
    if (count == 1 && w->t->way != TRANSCODE_FROM && (result = walk_alias(w)) != 0)
        return result < 0 ? result : 0;
    w->p += 5;
    if (count == 0 && (result = replace(w, begin, NULL, 0)) < 0) /* nothing but its tail */
        return result;
    const Level *outer = &w->levels[w->depth];
    bool beside = outer->pid_first && outer->left == 0;
    if ((result = push(w, begin, (uint64_t)count + 1)) == 0)
        w->levels[w->depth].beside = beside;
    return result;
}

static int walk_map(Walk *w)
{
    const uint8_t *begin = w->p;
    if (have(w) < 5)
        return refuse(w, w->end, TRUNCATED);
    if (w->t->way == TRANSCODE_TO_LING && !w->t->ling_maps)
        return refuse(w, begin, "a map would end a LING node (ling_maps allows it)");
    uint32_t count = get32(begin + 1);
    w->p += 5;
    return count == 0 ? 0 : push(w, begin, 2 * (uint64_t)count);
}

static int walk_export(Walk *w)
{
    const uint8_t *begin = w->p++;
    int result;
    if (w->t->way == TRANSCODE_TO_LING && w->depth == w->max_depth) /* LING counts its parts as nested */
        return refuse(w, begin, "nested more than 1000 deep");
    if ((result = walk_atom(w)) < 0 || (result = walk_atom(w)) < 0)
        return result;
    if (have(w) < 2)
        return refuse(w, w->end, TRUNCATED);
    if (*w->p != TAG_SMALL_INTEGER)
        return refuse(w, w->p, "the arity of an export is at most 255");
    w->p += 2;
    return 0;
}

/* ---- the loop ---- */

static int walk_bytes(Walk *w, size_t head)
{
    if (have(w) < head)
        return refuse(w, w->end, TRUNCATED);
    size_t size = head == 3 ? get16(w->p + 1) : get32(w->p + 1);
    if (have(w) - head < size) {
        if (head == 3)
            return refuse(w, w->end, TRUNCATED);
        w->p += head;
        return walk_parts(w, size);
    }
    w->p += head + size;
    return 0;
}

static int walk_fixed(Walk *w, size_t size)
{
    if (have(w) < size)
        return refuse(w, w->end, TRUNCATED);
    w->p += size;
    return 0;
}

static int walk_term(Walk *w)
{
    switch (*w->p) {
    case TAG_SMALL_INTEGER:
        return walk_fixed(w, 2);
    case TAG_INTEGER:
        return walk_fixed(w, 5);
    case TAG_NIL:
        w->p++;
        return 0;
    case TAG_NEW_FLOAT:
        if (have(w) < 9)
            return refuse(w, w->end, TRUNCATED);
        if ((get16(w->p + 1) & 0x7FF0) == 0x7FF0)
            return refuse(w, w->p, "a float that is not finite");
        w->p += 9;
        return 0;
    case TAG_FLOAT:
        return walk_old_float(w);
    case TAG_SMALL_BIG:
        return walk_big(w, 3);
    case TAG_LARGE_BIG:
        return walk_big(w, 6);
    case TAG_ATOM:
    case TAG_SMALL_ATOM:
    case TAG_ATOM_UTF8:
    case TAG_SMALL_ATOM_UTF8:
        return walk_atom(w);
    case TAG_STRING:
        return walk_bytes(w, 3);
    case TAG_BINARY:
        return walk_bytes(w, 5);
    case TAG_BIT_BINARY:
        return walk_bits(w);
    case TAG_SMALL_TUPLE:
        return walk_tuple(w, 2);
    case TAG_LARGE_TUPLE:
        return walk_tuple(w, 5);
    case TAG_LIST:
        return walk_list(w);
    case TAG_MAP:
        return walk_map(w);
    case TAG_EXPORT:
        return walk_export(w);
    case TAG_NEW_PID:
    case TAG_PID:
        return walk_pid(w);
    case TAG_LING_PID:
        return walk_ling_pid(w);
    case TAG_NEW_PORT:
    case TAG_V4_PORT:
    case TAG_PORT:
        return walk_port(w);
    case TAG_NEWER_REFERENCE:
    case TAG_NEW_REFERENCE:
    case TAG_REFERENCE:
        return walk_ref(w);
    case TAG_NEW_FUN:
    case TAG_FUN:
        return refuse(w, w->p, "funs don't cross a straw");
    case TAG_COMPRESSED:
        return refuse(w, w->p, "compressed terms don't cross a straw");
    case TAG_LOCAL:
    case TAG_RECORD:
    default:
        return refuse(w, w->p, "no term with this tag crosses a straw");
    }
}

/* Past 131, the tuple's head and the atom; *address is where the address begins. */
static int walk_envelope(Walk *w, const uint8_t **address)
{
    const char *error = "not an envelope";
    AtomText atom;
    size_t head = *w->p == TAG_SMALL_TUPLE ? 2 : 5;
    if (have(w) < head || (*w->p != TAG_SMALL_TUPLE && *w->p != TAG_LARGE_TUPLE) ||
        (head == 2 ? w->p[1] : get32(w->p + 1)) != 3)
        return refuse(w, w->p, error);
    int result = walk_term(w); /* the head of the tuple */
    const uint8_t *begin = w->p;
    if (result < 0)
        return result;
    if (read_atom(w, &atom) < 0 || !atom_is(&atom, "envelope"))
        return refuse(w, begin, error);
    w->p = begin;
    result = walk_atom(w);
    w->levels[w->depth].left = 2;
    *address = w->p;
    return result;
}

int transcode(Transcode *t)
{
    Walk w;
    const uint8_t *address = NULL;
    int result = 0;
    if (t->size > TRANSCODE_MAX_FRAME)
        return -EMSGSIZE;
    for (size_t i = 0, size = t->size; i < t->more_count; i++)
        if (t->more[i].size > TRANSCODE_MAX_FRAME || (size += t->more[i].size) > TRANSCODE_MAX_FRAME)
            return -EMSGSIZE;
    w.t = t;
    w.part = 0;
    w.base = w.run = w.p = t->in;
    w.end = t->in + t->size;
    w.depth = 0;
    /* A LING counts the innermost term too. */
    w.max_depth = t->way == TRANSCODE_TO_LING ? TRANSCODE_MAX_DEPTH - 1 : TRANSCODE_MAX_DEPTH;
    w.levels[0] = (Level){1, 1, false, false, false};
    if (t->size < 2 || *w.p != TAG_VERSION)
        return refuse(&w, w.p, t->size < 2 ? TRUNCATED : "a term begins with 131");
    w.p++;
    if (t->envelope) {
        w.levels[0].left = 0;
        result = walk_envelope(&w, &address);
    }
    while (result == 0) {
        Level *level = &w.levels[w.depth];
        if (level->left == 0) {
            if (w.depth-- == 0)
                break;
            continue;
        }
        if (w.p == w.end)
            return refuse(&w, w.end, TRUNCATED);
        if (t->taken++ == t->steps && t->steps != 0)
            return -EAGAIN;
        level->left--;
        bool is_address = w.p == address && w.part == 0;
        size_t holes = t->holes;
        result = walk_term(&w);
        if (is_address && t->holes != holes) /* a tuple's holes come later, with its parts */
            t->address_hole = true;
    }
    if (result == 0 && (w.p != w.end || w.part != t->more_count))
        return refuse(&w, w.p, "data after the term");
    if (result == 0)
        result = flush(&w, w.p);
    if (result == 0 && t->total > TRANSCODE_MAX_FRAME)
        return -EMSGSIZE;
    return result;
}

void transcode_free(Transcode *t)
{
    if (t->pieces != t->first)
        free(t->pieces);
    t->pieces = NULL;
    t->count = t->room = 0;
    if (t->resize == NULL) {
        free(t->out);
        t->out = NULL;
        t->out_size = t->out_room = 0;
    }
}

/* ---- what a hole holds ---- */

const uint8_t *transcode_at(const Transcode *t, const TranscodePiece *piece)
{
    return (piece->part == 0 ? t->in : t->more[piece->part - 1].bytes) + piece->at;
}

/* The atom at p, known to be sound; returns what follows. */
static const uint8_t *node_name(const uint8_t *p, TranscodeName *name)
{
    size_t head = *p == TAG_SMALL_ATOM_UTF8 || *p == TAG_SMALL_ATOM ? 2 : 3;
    name->latin1 = *p == TAG_SMALL_ATOM || *p == TAG_ATOM;
    name->node = p + head;
    name->node_size = head == 2 ? p[1] : get16(p + 1);
    return name->node + name->node_size;
}

void transcode_pid(const uint8_t *term, TranscodeName *pid)
{
    const uint8_t *p = node_name(term + 1, pid);
    pid->id = get32(p);
    pid->serial = get32(p + 4);
    pid->creation = *term == TAG_NEW_PID ? get32(p + 8) : p[8];
    pid->count = 0;
}

void transcode_ref(const uint8_t *term, TranscodeName *ref)
{
    bool old = *term == TAG_REFERENCE;
    ref->count = old ? 1 : get16(term + 1);
    const uint8_t *p = node_name(term + (old ? 1 : 3), ref);
    if (old) {
        ref->creation = p[4];
    } else {
        ref->creation = *term == TAG_NEWER_REFERENCE ? get32(p) : *p;
        p += *term == TAG_NEWER_REFERENCE ? 4 : 1;
    }
    for (uint32_t i = 0; i < ref->count; i++, p += 4)
        ref->words[i] = get32(p);
    ref->id = ref->serial = 0;
}

void transcode_ling_pid(const uint8_t *term, uint64_t *boxid, uint32_t *domid, uint32_t *id)
{
    *boxid = get64(term + 1);
    *domid = get32(term + 9);
    *id = get32(term + 13);
}
