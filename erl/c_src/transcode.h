/* External terms (erl_ext_dist) between a BEAM and a straw, as bytes: checked whole, rewritten where the other side
 * reads another form, with holes where a pid or a reference stands.
 *
 * It makes no terms, knows no process and no straw, calls nothing but malloc's family and strtod, and has no state of
 * its own. What comes in may be hostile: every read is checked against the end, memory and time are linear in the
 * input, and nothing is recursive. straw_codec_nif.c makes Erlang terms of the result.
 */
#ifndef STRAW_TRANSCODE_H
#define STRAW_TRANSCODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TRANSCODE_MAX_FRAME (16u << 20) /* bytes of one frame: what a straw holds unsent (straw-rules 3) */
#define TRANSCODE_MAX_DEPTH 1000        /* nesting: what a LING takes (straw-rules 6) */
#define TRANSCODE_MAX_HOLES 65536       /* pids and references in one message: each costs many times its bytes here */
#define TRANSCODE_MAX_BIG 524280        /* bytes of magnitude going out: OTP 28's largest integer */
#define TRANSCODE_MAX_REF_WORDS 5       /* erl_ext_dist, NEWER_REFERENCE_EXT */

typedef enum {
    TRANSCODE_TO_OTP,  /* what term_to_binary wrote, for a peer that reads all of OTP's tags, and 160 */
    TRANSCODE_TO_LING, /* the same for a LING: only what it decodes */
    TRANSCODE_FROM     /* what any peer wrote, for binary_to_term */
} TranscodeWay;

typedef enum {
    PIECE_INPUT,    /* bytes of the input */
    PIECE_OUTPUT,   /* bytes of out */
    PIECE_PID,      /* hole: a pid of OTP's form; read it with transcode_pid() */
    PIECE_LING_PID, /* hole: tag 160; transcode_ling_pid() */
    PIECE_REF,      /* hole: a reference; transcode_ref() */
    PIECE_ALIAS     /* hole: the reference in [alias|Reference], which stands for all of that list; transcode_ref() */
} TranscodeKind;

/* A part of the input. */
typedef struct {
    const uint8_t *bytes;
    size_t size;
} TranscodePart;

/* The result is the concatenation of the pieces, of at least one. A hole's at and size are of the term in the input,
 * with its tag; transcode_at() finds the bytes. */
typedef struct {
    uint8_t kind; /* TranscodeKind */
    bool from;    /* of a reference: it is the tag of a From, {Pid, Tag} or {Pid, [Tag | Label]}, after that pid's hole */
    uint32_t part; /* of the input: 0 is `in`, 1 the first of `more` */
    uint32_t at, size;
} TranscodePiece;

typedef struct {
    /* Set by the caller; the rest zero. */
    const uint8_t *in;
    size_t size;
    /* Of term_to_iovec: what follows `in`. A part ends where the data of a large binary begin; these are whole parts. */
    const TranscodePart *more;
    size_t more_count;
    TranscodeWay way;
    bool envelope;  /* the term must be {envelope, Addr, Msg} */
    bool ling_maps; /* maps go to a LING, which may die of them (straw-rules 6) */
    size_t steps;   /* give up with -EAGAIN after about so many terms, an eighth as many holes; 0: never */
    /* realloc for out, or NULL for realloc itself. Called with sizes that grow. */
    void *(*resize)(void *context, void *memory, size_t size);
    void *context;
    /* Where pieces go as long as they fit; NULL: all into memory that is taken for them. */
    TranscodePiece *first;
    size_t first_room;

    /* The result. */
    uint8_t *out;
    size_t out_size, out_room;
    TranscodePiece *pieces;
    size_t count, room;
    size_t holes;
    size_t total;      /* bytes of all pieces that are no holes */
    size_t taken;      /* steps */
    bool address_hole; /* the envelope's address is the first hole */
    const char *error; /* why -EINVAL: a text that lives for ever */
    size_t error_at;   /* offset in the part of the input that was being read */
} Transcode;

/* 0, -EINVAL (with error and error_at), -EMSGSIZE (beyond TRANSCODE_MAX_FRAME), -EAGAIN (steps) or -ENOMEM. Call
 * transcode_free() in every case. Time goes with the number of terms, not with the bytes of large binaries. */
int transcode(Transcode *t);

/* Frees pieces, and out unless there is a resize of the caller's, who then owns out. */
void transcode_free(Transcode *t);

typedef struct {
    const uint8_t *node; /* in the input; latin-1 or UTF-8 */
    uint32_t node_size;
    bool latin1;
    uint32_t creation;
    uint32_t id, serial;                     /* of a pid */
    uint32_t words[TRANSCODE_MAX_REF_WORDS]; /* of a reference, in wire order */
    uint32_t count;
} TranscodeName;

/* Where a piece of the input is. */
const uint8_t *transcode_at(const Transcode *t, const TranscodePiece *piece);

/* What a hole holds; `term` is where its bytes begin, in an input that transcode() has checked. */
void transcode_pid(const uint8_t *term, TranscodeName *pid);
void transcode_ref(const uint8_t *term, TranscodeName *ref);
void transcode_ling_pid(const uint8_t *term, uint64_t *boxid, uint32_t *domid, uint32_t *id);

#endif
