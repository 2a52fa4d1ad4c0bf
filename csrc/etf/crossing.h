/* Within the codec: what pids and references become between two domains. crossing.c has the rules; encode.c and decode.c
 * ask it for every pid and reference when a Crossing was given to them, and not at all otherwise. */
#ifndef STRAWBRIDGE_ETF_CROSSING_H
#define STRAWBRIDGE_ETF_CROSSING_H

#include "etf.h"

#define LING_ID_MASK 0x7FFFFFFu    /* a LING keeps 27 bits of a process's id */
#define LING_REF_WORDS 3
#define LING_REF_FIRST (1u << 18)  /* the first word of its references is below */

struct Crossing {
    PyObject_HEAD
    State *state;
    uint32_t ours, peer;   /* domain ids */
    uint32_t start, spent; /* our ids: the first one, and how many were given out, counting on from it */
    uint32_t max_nodes;
    uint32_t forged;       /* pids that the peer can't have from us, since somebody set this to 0 */
    Reference *own;        /* references of our table: its node, creation and first two words; the third counts */
    Pid *dead;             /* what stands for a process of ours that has ended: its node, serial and creation */
    Atom *peer_node;       /* the node of the peer's own references */
    Atom *local, *alias;
    PyObject *given;       /* dict: our id -> Pid */
    PyObject *proxies;     /* dict: the peer's id -> Pid */
    PyObject *out;         /* dict: Pid -> domid << 32 | id */
    PyObject *refs;        /* dict: third word -> Reference or ImproperList */
    PyObject *nodes;       /* set of the Atoms that tell a LING node and creation of a reference */
    PyObject *give, *take; /* callables */
};

/* Places in what was written whose four bytes are known only when `give` has been asked. */
struct Holes {
    PyObject *wanted; /* list of (Pid, Reference or ImproperList, owner or None); NULL: none yet */
    uint64_t *at;
    size_t count, room;
};

/* After the walk: ask for what is missing and write it in. */
int holes_fill(const Crossing *c, Holes *holes, BytesWriter *b);
void holes_drop(Holes *holes);

#endif
