/* What the files of pore_nif.so share: resources, their ends, and the words that go to Erlang.
 *
 * A resource is ended once, by whoever comes first: a call, the death of its owner, the collector. What the emulator polls is
 * a descriptor of its own (a duplicate): it may be closed only by the `stop` callback, while pores, hosts and streams close
 * theirs at once.
 */
#ifndef PORE_NIF_H
#define PORE_NIF_H

#include <erl_nif.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "../../csrc/include/pore.h"

enum {
    PORES_MAX = 4096,       /* in one emulator; a slot takes about 800 bytes */
    XS_RING = 1024,         /* a stream to the store looks like XenStore's ring: so many bytes each way */
    FRAMES_MAX = 1024,      /* frames or pieces in one call */
    BYTES_PER_PERCENT = 32768 /* copied in a hundredth of a timeslice (1 ms), by a slow machine */
};

/* Resources live on when the library is loaded anew: more by one whenever a structure of theirs means something else. */
#ifndef PORE_NIF_LAYOUT
#define PORE_NIF_LAYOUT 1
#endif

/* Of all resource types: those that the library before has made are ours. */
#define RT_FLAGS ((ErlNifResourceFlags)(ERL_NIF_RT_CREATE | ERL_NIF_RT_TAKEOVER))

extern struct pore_table *pores;
extern ErlNifResourceType *memory_type, *channel_type, *pore_type, *host_type, *stream_type;

/* How many of each are not ended: tests look for leaks. */
struct held {
    atomic_long memories, channels, pores, hosts, streams, polled;
};
extern struct held *held;

/* ---- what is polled ---- */

struct polled {
    ErlNifMutex *lock; /* guards `over` against arming: nothing is armed after the end */
    int fd;            /* a duplicate, closed by `stop`; -1: none */
    atomic_bool over;
    bool monitored, selected;
    ErlNifPid owner;
    ErlNifMonitor monitor;
};

/* Duplicates fd; the caller is the owner. 0 or -errno. */
int polled_init(struct polled *p, int fd);
/* The owner's death ends it (the type's down callback), and the fd is polled from now on. 0 or -errno. */
int polled_start(ErlNifEnv *env, void *object, struct polled *p, ERL_NIF_TERM message);
/* Once: `message` to the owner when the fd is readable (writable: when it is that). false: it has ended. */
bool polled_arm(ErlNifEnv *env, void *object, struct polled *p, ERL_NIF_TERM message, bool writable);
/* true: this call is the one that ends it. */
bool polled_over(ErlNifEnv *env, void *object, struct polled *p);
/* For the types' stop callbacks. */
void polled_stop(int fd);
void polled_free(struct polled *p);

/* ---- resources ---- */

struct memory {
    atomic_int fd;
    int platform; /* enum pore_platform */
    uint32_t pages;
    uint32_t *page_index;  /* NULL: the nth */
    _Atomic(uint64_t) pore; /* what has it mapped; 0: nothing */
};

struct channel_end {
    atomic_int fd; /* -1: taken by a pore, or closed */
    uint32_t port; /* Xen: ours */
};

struct nif_pore {
    struct polled polled;
    pore_id id;
    int role;
    struct memory *memory;
    uint32_t ref_count, port_count;
    uint32_t *refs;
    uint32_t ports[2];
    bool told;          /* somebody is to hear of the end */
    ErlNifPid listener; /* straw_backend */
    ErlNifEnv *news_env;
    ERL_NIF_TERM news;
};

/* Both take the fd. */
ERL_NIF_TERM memory_make(ErlNifEnv *env, int platform, int fd, uint32_t pages, const uint32_t *page_index);
ERL_NIF_TERM channel_make(ErlNifEnv *env, int fd, uint32_t port);

int pore_types(ErlNifEnv *env);
int host_types(ErlNifEnv *env);
int stream_types(ErlNifEnv *env);
bool pore_end(ErlNifEnv *env, struct nif_pore *pore);
bool stream_end(ErlNifEnv *env, void *stream);

/* ---- words ---- */

extern ERL_NIF_TERM atom_ok, atom_error, atom_true, atom_false, atom_irq, atom_none;

ERL_NIF_TERM atom(ErlNifEnv *env, const char *name);
ERL_NIF_TERM error_tuple(ErlNifEnv *env, const char *name);
/* {error, enoent} and the like; what the pores mean by an errno is error_pore's. */
ERL_NIF_TERM error_errno(ErlNifEnv *env, int error);
ERL_NIF_TERM error_pore(ErlNifEnv *env, struct nif_pore *pore, long error);
int close_fd(int fd);
/* Accounts for `bytes` copied. */
void spent(ErlNifEnv *env, size_t bytes);
ERL_NIF_TERM make_words(ErlNifEnv *env, const uint32_t *from, uint32_t count);
/* A list of at most `most` u32. Their number, or -1. The array is enif_alloc's; NULL when empty. */
long get_words(ErlNifEnv *env, ERL_NIF_TERM list, uint32_t most, uint32_t **words);

#define NIF(name) ERL_NIF_TERM name(ErlNifEnv *env, int argc, const ERL_NIF_TERM argv[])

/* pore_nif_make.c */
NIF(nif_open_straw);
NIF(nif_open_tube);
NIF(nif_tube_refs);
NIF(nif_close);
NIF(nif_fail_user);
NIF(nif_in_use);
NIF(nif_close_fd);
/* pore_nif_data.c */
NIF(nif_avail);
NIF(nif_read);
NIF(nif_write);
NIF(nif_write_all);
NIF(nif_read_frames);
NIF(nif_write_frames);
NIF(nif_poke);
NIF(nif_fail);
NIF(nif_info);
NIF(nif_slots);
NIF(nif_notify_when);
/* pore_nif_host.c */
NIF(nif_uid);
NIF(nif_host_connect);
NIF(nif_host_send);
NIF(nif_host_receive);
NIF(nif_host_close);
/* pore_nif_xen.c */
NIF(nif_xen_grant);
NIF(nif_xen_map);
NIF(nif_xen_still_mapped);
NIF(nif_xen_alloc_channel);
NIF(nif_xen_bind_channel);
NIF(nif_xen_lock);
NIF(nif_store_open);
/* pore_nif_stream.c */
NIF(nif_xs_open);
NIF(nif_xs_avail);
NIF(nif_xs_read);
NIF(nif_xs_write);

#endif
