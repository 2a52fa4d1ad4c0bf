/* The data path of a pore. What is copied in one call is bounded by the ring (at most 1 MiB) and accounted for. */
#define _GNU_SOURCE
#include "pore_nif.h"

#include <stdlib.h>
#include <string.h>

static struct nif_pore *get(ErlNifEnv *env, ERL_NIF_TERM term) {
    void *object;
    return enif_get_resource(env, term, pore_type, &object) ? object : NULL;
}

ERL_NIF_TERM error_pore(ErlNifEnv *env, struct nif_pore *pore, long error) {
    /* A pore that is being closed hangs up first. */
    if (error == -EBADF || atomic_load(&pore->polled.over)) return error_tuple(env, "closed");
    if (error == -EBADMSG) return error_tuple(env, "corrupt");
    if (error == -EPIPE) {
        switch (pore_error(pores, pore->id)) {
            case PORE_HOST_DOWN: return error_tuple(env, "host_down");
            case PORE_REFUSED: return error_tuple(env, "refused");
            case PORE_CORRUPT: return error_tuple(env, "corrupt");
            case -EBADF: return error_tuple(env, "closed");
            default: return error_tuple(env, "peer_gone");
        }
    }
    if (error == -EINVAL) return enif_make_badarg(env);
    return error_errno(env, (int)error);
}

/* avail(Pore) -> {In, Out} | {error, Reason}. Once it has failed the fd stays readable: then nothing is armed, the owner has
 * been told. */
NIF(nif_avail) {
    struct nif_pore *pore = get(env, argv[0]);
    uint32_t in, out;
    int error;
    (void)argc;
    if (!pore) return enif_make_badarg(env);
    error = pore_avail(pores, pore->id, &in, &out);
    /* Level-triggered: a poke that came after the draining sets it off at once. */
    if (pore_error(pores, pore->id) == PORE_OPEN) {
        polled_arm(env, pore, &pore->polled, enif_make_tuple2(env, atom_irq, argv[0]), false);
    }
    if (error) return error_pore(env, pore, error);
    return enif_make_tuple2(env, enif_make_uint(env, in), enif_make_uint(env, out));
}

/* Where data lands before it is known how much it is: one for each scheduler thread, as a NIF is never interrupted. */
static uint8_t *scratch(size_t size) {
    static __thread uint8_t *memory;
    static __thread size_t have;
    if (have < size) {
        uint8_t *more = realloc(memory, size);
        if (!more) return NULL;
        memory = more;
        have = size;
    }
    return memory;
}

static size_t at_most(struct nif_pore *pore, ErlNifUInt64 wanted) {
    struct pore_info info;
    if (pore_info(pores, pore->id, &info) < 0) return 1; /* the call itself will say why */
    if (info.packet_max) return info.packet_max;
    return wanted < info.in_size ? (size_t)wanted : info.in_size;
}

/* read(Pore, Max) -> Binary | {error, Reason}: a stream's bytes, a tube's packet; <<>>: nothing now. */
NIF(nif_read) {
    struct nif_pore *pore = get(env, argv[0]);
    ERL_NIF_TERM term;
    ErlNifUInt64 most;
    uint8_t *to;
    size_t size;
    long n;
    (void)argc;
    if (!pore || !enif_get_uint64(env, argv[1], &most)) return enif_make_badarg(env);
    size = at_most(pore, most);
    if (!(to = scratch(size ? size : 1))) return error_errno(env, ENOMEM);
    n = pore_read(pores, pore->id, to, size, PORE_POKE);
    if (n < 0) return error_pore(env, pore, n);
    if (n) memcpy(enif_make_new_binary(env, (size_t)n, &term), to, (size_t)n);
    else enif_make_new_binary(env, 0, &term);
    spent(env, 2 * (size_t)n);
    return term;
}

/* read_frames(Pore, Max) -> {ok, [Frame]} | {big, Length} | {error, Reason}. */
NIF(nif_read_frames) {
    struct nif_pore *pore = get(env, argv[0]);
    ERL_NIF_TERM list, term;
    uint32_t ends[FRAMES_MAX];
    ErlNifUInt64 most;
    uint8_t *from;
    size_t size;
    long n;
    (void)argc;
    if (!pore || !enif_get_uint64(env, argv[1], &most)) return enif_make_badarg(env);
    /* No ring has more; what is scratch is no more than was asked for. */
    size = most < PORE_RING_MAX ? (size_t)most : PORE_RING_MAX;
    if (!(from = scratch(size ? size : 1))) return error_errno(env, ENOMEM);
    n = pore_read_frames(pores, pore->id, from, size, ends, FRAMES_MAX, PORE_POKE);
    if (n == -EMSGSIZE) return enif_make_tuple2(env, atom(env, "big"), enif_make_uint(env, ends[0]));
    if (n < 0) return error_pore(env, pore, n);
    list = enif_make_list(env, 0);
    if (n) spent(env, 2 * (size_t)ends[n - 1]);
    while (n--) {
        uint32_t start = n ? ends[n - 1] : 0, length = ends[n] - start;
        uint8_t *to = enif_make_new_binary(env, length, &term);
        if (length) memcpy(to, from + start, length);
        list = enif_make_list_cell(env, term, list);
    }
    return enif_make_tuple2(env, atom_ok, list);
}

/* write(Pore, [Binary]) -> Bytes | {more, Bytes, Rest} | {error, Reason}. Less than all: there is no room, {irq, Pore} comes
 * when there is. `more`: there is, but so many pieces are enough for one call. */
NIF(nif_write) {
    struct nif_pore *pore = get(env, argv[0]);
    ERL_NIF_TERM list, head, rest;
    ErlNifBinary from;
    size_t done = 0;
    bool full = false;
    long n = 0;
    (void)argc;
    if (!pore || !enif_is_list(env, argv[1])) return enif_make_badarg(env);
    list = argv[1];
    for (int i = 0; i < FRAMES_MAX && !full && enif_get_list_cell(env, list, &head, &rest); i++) {
        if (!enif_inspect_binary(env, head, &from)) return enif_make_badarg(env);
        n = pore_write(pores, pore->id, from.data, from.size, 0);
        if (n > 0) done += (size_t)n;
        full = n < 0 || (size_t)n < from.size;
        list = rest;
    }
    if (n < 0 && !done) return error_pore(env, pore, n);
    if (done) pore_poke(pores, pore->id);
    spent(env, done);
    if (full || enif_is_empty_list(env, list)) return enif_make_uint64(env, done);
    return enif_make_tuple3(env, atom(env, "more"), enif_make_uint64(env, done), list);
}

/* write_all(Pore, Binary) -> ok | {error, Reason} | badarg: there is not so much room. LING's write: it does not poke. */
NIF(nif_write_all) {
    struct nif_pore *pore = get(env, argv[0]);
    ErlNifBinary from;
    long room;
    (void)argc;
    if (!pore || !enif_inspect_binary(env, argv[1], &from)) return enif_make_badarg(env);
    room = pore_slots(pores, pore->id);
    if (room < 0) return error_pore(env, pore, room);
    if (from.size > (size_t)room) return enif_make_badarg(env);
    room = pore_write(pores, pore->id, from.data, from.size, 0);
    if (room < 0) return error_pore(env, pore, room);
    spent(env, from.size);
    return atom_ok;
}

/* write_frames(Pore, [Binary]) -> {ok, Taken} | {more, Taken, Rest} | {big, Length} | {error, Reason}; as write, whole frames. */
NIF(nif_write_frames) {
    struct nif_pore *pore = get(env, argv[0]);
    ERL_NIF_TERM list, head, rest, taken;
    ErlNifBinary from;
    size_t bytes = 0;
    unsigned count = 0;
    bool full = false;
    long n = 0;
    (void)argc;
    if (!pore || !enif_is_list(env, argv[1])) return enif_make_badarg(env);
    list = argv[1];
    while (count < FRAMES_MAX && !full && enif_get_list_cell(env, list, &head, &rest)) {
        if (!enif_inspect_binary(env, head, &from)) return enif_make_badarg(env);
        n = pore_write_frame(pores, pore->id, from.data, from.size, 0);
        full = n <= 0;
        if (full) break;
        bytes += (size_t)n;
        count++;
        list = rest;
    }
    if (n < 0 && !count) {
        if (n == -EMSGSIZE) return enif_make_tuple2(env, atom(env, "big"), enif_make_uint64(env, from.size));
        return error_pore(env, pore, n);
    }
    if (count) pore_poke(pores, pore->id);
    spent(env, bytes);
    taken = enif_make_uint(env, count);
    if (full || enif_is_empty_list(env, list)) return enif_make_tuple2(env, atom_ok, taken);
    return enif_make_tuple3(env, atom(env, "more"), taken, list);
}

/* ---- poking, failing, asking ---- */

/* poke(Pore) -> true, also when there is nobody left to poke. */
NIF(nif_poke) {
    struct nif_pore *pore = get(env, argv[0]);
    void *stream;
    (void)argc;
    if (!pore) return enif_get_resource(env, argv[0], stream_type, &stream) ? atom_true : enif_make_badarg(env);
    return pore_poke(pores, pore->id) == -EBADF ? enif_make_badarg(env) : atom_true;
}

/* fail(Pore, Number) -> ok | {error, closed}. */
NIF(nif_fail) {
    struct nif_pore *pore = get(env, argv[0]);
    int reason, error;
    (void)argc;
    if (!pore || !enif_get_int(env, argv[1], &reason)) return enif_make_badarg(env);
    error = pore_fail(pores, pore->id, reason);
    return error ? error_pore(env, pore, error) : atom_ok;
}

/* slots(Pore) -> Free | {error, Reason}. */
NIF(nif_slots) {
    struct nif_pore *pore = get(env, argv[0]);
    long n;
    (void)argc;
    if (!pore) return enif_make_badarg(env);
    n = pore_slots(pores, pore->id);
    return n < 0 ? error_pore(env, pore, n) : enif_make_long(env, n);
}

/* notify_when(Pore, Slots) -> boolean() | {error, Reason}. */
NIF(nif_notify_when) {
    struct nif_pore *pore = get(env, argv[0]);
    unsigned slots;
    int n;
    (void)argc;
    if (!pore || !enif_get_uint(env, argv[1], &slots)) return enif_make_badarg(env);
    n = pore_notify_when(pores, pore->id, slots);
    return n < 0 ? error_pore(env, pore, n) : n ? atom_true : atom_false;
}

/* info(Pore) -> {Kind, Role, Reason, Refs, Ports, [Number]} | {error, closed}; the numbers' names are in pore.erl. */
NIF(nif_info) {
    static const char *const reasons[] = {"open", "peer_gone", "corrupt", "host_down", "refused"};
    struct nif_pore *pore = get(env, argv[0]);
    struct pore_info i;
    int error;
    (void)argc;
    if (!pore) return enif_make_badarg(env);
    if ((error = pore_info(pores, pore->id, &i))) return error_pore(env, pore, error);
    ERL_NIF_TERM numbers[] = {
        enif_make_uint(env, i.in_size),    enif_make_uint(env, i.out_size),     enif_make_uint(env, i.packet_max),
        enif_make_uint(env, i.pages),      enif_make_int(env, i.suppress),      enif_make_uint64(env, i.in_total),
        enif_make_uint64(env, i.out_total), enif_make_uint64(env, i.pokes),     enif_make_uint64(env, i.pokes_spared),
        enif_make_uint64(env, i.irqs),
    };
    return enif_make_tuple6(env, atom(env, i.kind == PORE_TUBE ? "tube" : "straw"),
                            atom(env, i.role == PORE_ACTIVE ? "active" : "passive"), atom(env, reasons[i.reason]),
                            make_words(env, pore->refs, pore->ref_count), make_words(env, pore->ports, pore->port_count),
                            enif_make_list_from_array(env, numbers, sizeof numbers / sizeof numbers[0]));
}
