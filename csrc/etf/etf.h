/* Internal interface of node._etf, the codec of Erlang's external term format (erl_ext_dist).
 *
 * What each file is for: atoms.c (Atom and its weak intern table), terms.c (Pid, Port, Reference),
 * records.c (the slotted Python classes of node/terms.py, filled and read without calling Python),
 * decode.c and encode.c (terms), blocks.c (memory shared with memoryviews), reader.c and outbox.c (frames of
 * one connection), crossing.c (pids between domains), module.c (the module). Nothing here knows of sockets or of the distribution protocol's
 * messages. All state hangs on the module; there are no mutable globals.
 */
#ifndef STRAWBRIDGE_ETF_H
#define STRAWBRIDGE_ETF_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <stdint.h>
#include <string.h>

#include "../include/etf_tags.h"

#define MAX_ATOM_CHARS 255            /* OTP's limit, in characters */
#define MAX_ATOM_BYTES 1020           /* the same in UTF-8 */
#define MAX_REF_WORDS 5               /* erl_ext_dist, NEWER_REFERENCE_EXT */
#define MAX_DEPTH 10000               /* nesting: hash and compare of nested tuples recurse in CPython's C */
#define MAX_KEY_DEPTH 64              /* tuples nested in a map key that we let Python hash */
#define MAX_LING_DEPTH 999            /* containers: LING decodes 1000 levels, and what is innermost is one */
#define MAX_ENCODED_BIG 524280        /* bytes of magnitude; OTP 28's largest integer */
#define MAX_DECODED_BIG 4194296       /* OTP 25's largest integer */
#define MAX_INFLATED (64 << 20)       /* bytes of an unpacked COMPRESSED term */
#define MAX_FRAME (INT64_C(1) << 31)   /* bytes of one frame, unless told otherwise */
#define BIG_BINARY (64 << 10)         /* binaries from here on are passed on, not copied */
#define RECENT_ATOMS 2048             /* atoms kept alive although nobody holds them; a power of two */
#define RECENT_BYTES 64               /* longer atoms are not kept */
#define RECENT_KEYS 1024              /* short binaries that were keys of maps, kept with their hash; a power of two */
#define FEW_KEYS 64                   /* in larger maps keys are likely all different, and not kept */
#define KEY_BYTES 32                  /* longer ones are not kept; below 256 */
#define WIRE_TEXT 30                  /* atoms up to here are held as they look on the wire */

typedef struct Atom Atom;
typedef struct Crossing Crossing;
typedef struct Holes Holes;
typedef struct AtomTable AtomTable;

struct Atom {
    PyObject_HEAD
    PyObject *name;        /* str */
    PyObject *value;       /* what this atom decodes to: borrowed; True, False or the atom itself */
    AtomTable *table;
    Atom *next;            /* in the same bucket */
    uint64_t hash;
    PyObject *weakrefs;
    const uint8_t *text;   /* UTF-8, lives in name */
    uint16_t length;       /* bytes of text */
    uint8_t latin1;        /* every character is below 256 */
    uint8_t wired;         /* wire is filled */
    uint8_t wire[WIRE_TEXT + 2];
};

typedef struct {
    PyObject_HEAD
    Atom *node;
    uint32_t id, serial, creation;
} Pid;

typedef struct {
    PyObject_HEAD
    Atom *node;
    uint64_t id;
    uint32_t creation;
} Port;

typedef struct {
    PyObject_HEAD
    Atom *node;
    uint32_t creation;
    uint32_t count;
    uint32_t ids[MAX_REF_WORDS];
} Reference;

/* The slotted Python classes of node/terms.py and their fields, in the order in which they are registered. */
typedef enum { R_EXPORT, R_FUN, R_BITS, R_IMPROPER, R_MAP, R_RECORD, R_LOCAL, R_LING_PID, R_COUNT } RecordKind;
enum { EXPORT_MODULE, EXPORT_FUNCTION, EXPORT_ARITY };
enum { FUN_ARITY, FUN_UNIQ, FUN_INDEX, FUN_FREE, FUN_MODULE, FUN_OLD_INDEX, FUN_OLD_UNIQ, FUN_PID };
enum { BITS_DATA, BITS_BITS };
enum { IMPROPER_ITEMS, IMPROPER_TAIL };
enum { MAP_PAIRS };
enum { RECORD_MODULE, RECORD_NAME, RECORD_EXPORTED, RECORD_FIELDS, RECORD_VALUES };
enum { LOCAL_DATA };
enum { LING_BOXID, LING_DOMID, LING_ID };
#define MAX_FIELDS 8

typedef struct {
    PyTypeObject *type;
    Py_ssize_t offset[MAX_FIELDS];
} RecordClass;

typedef struct {
    PyObject *module; /* borrowed: the module that owns this state */
    PyTypeObject *atom_type, *pid_type, *port_type, *reference_type;
    PyTypeObject *block_type, *piece_type, *reader_type, *outbox_type, *crossing_type;
    AtomTable *atoms;
    Atom *recent[RECENT_ATOMS];
    PyObject *keys[RECENT_KEYS];
    PyObject *small[256];
    Atom *undefined, *truth, *falsehood;
    RecordClass records[R_COUNT];
    PyObject *encode_error, *decode_error, *no_payload; /* NULL until node.terms has registered them */
} State;

static inline uint16_t get16(const uint8_t *p)
{
    uint16_t v;
    memcpy(&v, p, 2);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap16(v);
#endif
    return v;
}

static inline uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap32(v);
#endif
    return v;
}

static inline uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    return v;
}

static inline void put16(uint8_t *p, uint16_t v)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap16(v);
#endif
    memcpy(p, &v, 2);
}

static inline void put32(uint8_t *p, uint32_t v)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap32(v);
#endif
    memcpy(p, &v, 4);
}

static inline void put64(uint8_t *p, uint64_t v)
{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    v = __builtin_bswap64(v);
#endif
    memcpy(p, &v, 8);
}

/* atoms.c */
AtomTable *atom_table_new(void);
void atom_table_close(AtomTable *table); /* the module lets go; the table goes with its last atom */
Atom *atom_from_utf8(State *state, const uint8_t *text, size_t length); /* new reference; ValueError when not an atom */
Atom *atom_from_str(State *state, PyObject *name);                      /* new reference */
PyObject *key_bytes(State *state, const uint8_t *text, size_t length);   /* bytes, perhaps shared with earlier ones */
Py_ssize_t atom_count(State *state);
void atoms_forget(State *state); /* drop the recently used ones */
extern PyType_Spec atom_spec;

/* terms.c */
PyObject *pid_new(State *state, Atom *node, uint32_t id, uint32_t serial, uint32_t creation); /* steals node */
PyObject *port_new(State *state, Atom *node, uint64_t id, uint32_t creation);                 /* steals node */
Reference *reference_new(State *state, Atom *node, uint32_t creation, uint32_t count);        /* steals node */
extern PyType_Spec pid_spec, port_spec, reference_spec;

/* records.c */
int records_register(State *state, RecordKind kind, PyObject *cls);
PyObject *record_new(State *state, RecordKind kind); /* fields empty, not seen by the collector yet */
PyObject *record_get(State *state, RecordKind kind, PyObject *record, int field); /* borrowed; NULL when unset */

static inline void record_set(State *state, RecordKind kind, PyObject *record, int field, PyObject *value)
{
    *(PyObject **)((char *)record + state->records[kind].offset[field]) = value; /* steals value; field was empty */
}

typedef struct Writer Writer;
struct Writer {
    uint8_t *p, *end;
    uint8_t *base;        /* of the memory that p is in */
    uint64_t before;      /* bytes written before base */
    int moves;            /* grow may move what is written; otherwise it only adds */
    int (*grow)(Writer *w, size_t need);         /* afterwards end - p >= need */
    int (*pass)(Writer *w, PyObject *big_bytes); /* keep this bytes object as a piece; NULL: binaries are copied */
};

static inline uint64_t writer_position(const Writer *w)
{
    return w->before + (uint64_t)(w->p - w->base);
}

enum { DIALECT_OTP, DIALECT_LING };
typedef struct {
    State *state;
    Atom *none; /* borrowed */
    int dialect;
    int ling_maps;
    int top_local; /* a LocalTerm may stand here */
    const Crossing *crossing; /* borrowed; NULL: pids and references stand as they are */
    Holes *holes;             /* with crossing */
} EncodeOptions;

typedef struct {
    Writer w;
    PyObject *bytes;  /* grown in place; NULL while small is used */
    PyObject *pieces; /* borrowed list, or NULL: one bytes object */
    uint8_t small[1024];
} BytesWriter;

/* writer.c */
void bytes_writer_init(BytesWriter *b, PyObject *pieces);
PyObject *bytes_writer_finish(BytesWriter *b); /* what was written since the last piece, a new bytes object */
void bytes_writer_drop(BytesWriter *b);
/* encode.c */
int encode_term(const EncodeOptions *options, Writer *w, PyObject *term); /* without 131; -1 and an exception */
int keys_are_distinct(State *state, PyObject *pairs); /* pairs: tuple of 2-tuples; 1, 0, -1 and an exception */
int too_big(State *state); /* raises EncodeError: a frame's length has 32 bits */
Atom *none_argument(State *state, PyObject *value); /* new reference */
PyObject *etf_encode_frame(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *etf_encode(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *etf_encode_pieces(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
int dialect_argument(PyObject *value); /* DIALECT_…, or -1 and an exception */
PyObject *canonical_term(State *state, PyObject *term); /* bytes, the same for terms that are =:= */
/* A term with its 131: one bytes object, or into `list`, which is then returned. */
PyObject *encode_bytes(EncodeOptions *options, PyObject *term, PyObject *list);
int encode_frame_body(const EncodeOptions *options, Writer *w, PyObject *control, PyObject *payload);

static inline int writer_need(Writer *w, size_t need)
{
    return (size_t)(w->end - w->p) >= need ? 0 : w->grow(w, need);
}

/* decode.c */
typedef struct {
    State *state;
    const uint8_t *start; /* offset 0 of errors */
    const uint8_t *end;
    Py_ssize_t max_depth;
    int dialect;
    int specials;          /* LOCAL_EXT and COMPRESSED are taken */
    Crossing *crossing;    /* borrowed; NULL: pids and references stand as they are */
    int takes;             /* ids of the peer that are new are noted */
    PyObject *missing;     /* list of them; NULL: none yet */
    Py_ssize_t max_inflated;
    const char *error;     /* NULL after a failure: a Python exception is set */
    const uint8_t *error_at;
} Decoder;

PyObject *decode_term(Decoder *d, const uint8_t **at); /* *at: after 131 */
PyObject *decode_bytes(Decoder *d, PyObject *data, Py_ssize_t *used); /* used NULL: all of data is the term */
PyObject *decode_error_new(Decoder *d);                /* DecodeError instance, not raised */
PyObject *etf_decode(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);
PyObject *etf_decode_prefix(PyObject *module, PyObject *const *args, Py_ssize_t nargs, PyObject *kwnames);

/* blocks.c: memory that memoryviews may outlive */
typedef struct {
    PyObject_HEAD
    uint8_t *data;
    size_t capacity;
    size_t used; /* bytes filled; kept by the owner */
} Block;
Block *block_new(State *state, size_t capacity);
PyObject *piece_view(State *state, PyObject *owner, uint8_t *data, size_t length, int writable); /* memoryview */
extern PyType_Spec block_spec, piece_spec;

/* reader.c, outbox.c */
extern PyType_Spec reader_spec, outbox_spec;

/* crossing.c */
extern PyType_Spec crossing_spec;

/* module.c */
State *state_of(PyObject *module);
State *state_of_type(PyTypeObject *type); /* of a final type of this module */
int state_ready(State *state);           /* 0, or -1 and RuntimeError */

#endif
