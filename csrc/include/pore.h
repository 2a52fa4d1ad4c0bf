/* Pores: shared memory and event channels behind one API, for Python (cffi), the BEAM (NIF) and C alike.
 *
 * A pore is an id: index and generation in a table. An id whose pore is closed is refused (-EBADF), never taken for another.
 * Every call may come from any thread; one thread may read while another writes. Calls return a count, 0 for "not now",
 * or -errno; they never print, assert or abort, whatever the peer does:
 *   -EBADF     no such pore (closed by us)            -EPIPE    the peer is gone; what it had sent was read before
 *   -EBADMSG   the peer wrote what no honest peer writes; the pore is failed and reads and writes nothing more
 *   -EINVAL    a wrong argument                       -EMSGSIZE a packet or frame that can never fit
 * Nothing on the data path allocates, and only those that poke, drain, wait or spin make system calls.
 *
 * This text is also read by cffi: plain declarations, no macros but the guard, constants as enums.
 */
#ifndef PORE_H
#define PORE_H

#include <stddef.h>
#include <stdint.h>

/* ---- the table ---- */

typedef uint64_t pore_id; /* generation << 32 | index; never 0 */

struct pore_table;

/* At most `capacity` pores (up to 65536) at a time. NULL: no memory. */
struct pore_table *pore_table_new(uint32_t capacity);
/* The same in memory of the caller's (zeroed, aligned for uint64_t), who closes all pores before it goes. 0: no such capacity. */
size_t pore_table_size(uint32_t capacity);
struct pore_table *pore_table_init(void *memory, uint32_t capacity);
/* Of pore_table_new only. Closes every pore first. No other thread may use the table any more. */
void pore_table_free(struct pore_table *table);
/* In a child, after fork and before anything else of it uses the table: its pores are the parent's, so they are closed here,
 * without waiting for anybody or telling anybody (no destructor either). The table can be used again. */
void pore_table_forked(struct pore_table *table);
/* Pores that are open or failed. */
uint32_t pore_table_count(struct pore_table *table);

/* ---- makers ---- */

enum pore_kind { PORE_STRAW = 1, PORE_TUBE = 2, PORE_XENSTORE = 3 };

/* LING's words. The active side was knocked upon and granted the pages; the passive side opened and maps them.
 * XenStore: passive is the domain, active the store. */
enum pore_role { PORE_ACTIVE = 1, PORE_PASSIVE = 2 };

enum pore_limit {
    PORE_RING_MIN = 4096,    /* bytes of a ring, each direction, of a wide straw */
    PORE_RING_MAX = 1048576,
    PORE_TUBE_PAGES = 65,    /* the page, 32 tx buffers, 32 rx buffers */
    PORE_TUBE_BUFFERS = 64,
    PORE_PACKET_MAX = 4096,
    PORE_SPIN_DEFAULT = -1
};

enum pore_platform { PORE_LOCAL = 0, PORE_XEN = 1 };

/* PORE_LOCAL: pages of a memfd. Unless it is sealed against shrinking and growing and large enough, it is refused (-EPERM,
 * -EINVAL). PORE_XEN: what xen_grant (for the active side) or xen_map has given.
 * The fd stays the caller's and may be closed as soon as the pore is open. */
struct pore_memory {
    int fd;
    uint32_t pages;
    const uint32_t *page_index; /* which page of the memfd is our nth; NULL: the nth; PORE_XEN: NULL */
    int platform;               /* enum pore_platform */
};

struct pore_options {
    uint64_t owner;      /* any tag; see pore_close_owned */
    int role;            /* enum pore_role */
    uint32_t ring_bytes; /* straw: 0 = LING's 8 pages; else a wide straw, a power of two, in both options alike */
    int suppress;        /* wide straw: poke only a peer that waits. 0: poke after every read and write, as LING expects */
    int spin_us;         /* microseconds a wait may spin before it sleeps; 0 never, PORE_SPIN_DEFAULT as experience teaches */
    void (*destroy)(void *context); /* called once, after the pore is unmapped and its channels are closed; may be NULL */
    void *context;
    uint32_t ports[2]; /* PORE_XEN: our port of each channel; else unused */
};

/* Pages that a straw needs: ring_bytes = 0 gives 8; 0 when ring_bytes is not allowed. */
uint32_t pore_straw_pages(uint32_t ring_bytes);

/* A channel is one end of a socketpair (AF_UNIX, SOCK_STREAM or SOCK_SEQPACKET), on Xen what xen_alloc_channel or
 * xen_bind_channel has given. The pore owns it from now on, and closes it, if and only if the maker returns 0. The active side lays the memory out: call it before the peer knows of the pages. */
int pore_open_straw(struct pore_table *table, const struct pore_memory *memory, int channel,
                    const struct pore_options *options, pore_id *id);
int pore_open_xenstore(struct pore_table *table, const struct pore_memory *memory, int channel,
                       const struct pore_options *options, pore_id *id);
/* refs: the 64 grant references of the buffers, tx first; the active side writes them into the page, the passive side
 * checks them; NULL: 1..64. */
int pore_open_tube(struct pore_table *table, const struct pore_memory *memory, int channel_tx, int channel_rx,
                   const uint32_t *refs, const struct pore_options *options, pore_id *id);
/* What the tube's page says of its 64 buffers (for the passive side, which has mapped only the page so far). */
int pore_tube_refs(const struct pore_memory *page, uint32_t refs[64]);

/* ---- what a pore says of itself ---- */

enum pore_reason {
    PORE_OPEN = 0,
    PORE_PEER_GONE = 1, /* its end of a channel was closed */
    PORE_CORRUPT = 2,   /* it wrote what no honest peer writes */
    PORE_HOST_DOWN = 3, /* by pore_fail */
    PORE_REFUSED = 4    /* by pore_fail: whatever else a layer above found */
};

struct pore_info {
    int kind, role, reason; /* the enums above */
    int channels;
    uint64_t owner;
    uint32_t in_size, out_size; /* the most that avail can say; bytes, tube: packets */
    uint32_t packet_max;        /* tube: bytes of a packet; 0: a stream */
    uint32_t pages;
    int suppress;
    uint64_t in_total, out_total;        /* bytes read, bytes written */
    uint64_t pokes, pokes_spared, irqs;  /* sent, found needless, drained */
    uint64_t spins, spin_hits, sleeps;   /* waits that spun, that were met while spinning, that slept */
};
int pore_info(struct pore_table *table, pore_id id, struct pore_info *info);

/* Why it failed (enum pore_reason), PORE_OPEN, or -EBADF. */
int pore_error(struct pore_table *table, pore_id id);
/* Fails it from our side, once: its users get -EPIPE, sleeping ones at once; the peer sees its channels close. */
int pore_fail(struct pore_table *table, pore_id id, int reason);
/* The one descriptor to poll for reading, the same while the pore lives. Readable: call pore_avail. Not to be closed. */
int pore_fd(struct pore_table *table, pore_id id);

/* ---- data ---- */

enum pore_flag {
    PORE_POKE = 1, /* pore_poke afterwards */
    PORE_QUIET = 2 /* announce nothing: pore_wait or pore_avail comes next, which do */
};

/* Takes what has arrived of pokes, then says how much there is to read and how much room to write (NULL: don't care).
 * Bytes; tube: packets. What is wanted and not there is announced: the fd becomes readable when it comes. */
int pore_avail(struct pore_table *table, pore_id id, uint32_t *in, uint32_t *out);
/* Up to `length` bytes (tube: one packet; -EMSGSIZE if it does not fit). 0: nothing there, and that is announced. */
long pore_read(struct pore_table *table, pore_id id, void *to, size_t length, int flags);
/* As many bytes as there is room for (tube: one packet or nothing). Less than `length`: the rest is announced. */
long pore_write(struct pore_table *table, pore_id id, const void *from, size_t length, int flags);
/* A frame: `length` as u32 big-endian, then the bytes; all or nothing (0: no room now, announced; -EMSGSIZE: it can never
 * fit at once, write it in pieces). Returns length + 4. Streams only. */
long pore_write_frame(struct pore_table *table, pore_id id, const void *from, size_t length, int flags);
/* A frame's bytes, wherever they are. */
struct pore_part {
    const void *data;
    uint32_t length;
};
/* `count` such frames: as many whole ones as there is room for now; how many. */
long pore_write_parts(struct pore_table *table, pore_id id, const struct pore_part *parts, uint32_t count, int flags);
/* `count` such frames, whose bytes follow each other in `from`: as many whole ones as there is room for now; how many. */
long pore_write_frames(struct pore_table *table, pore_id id, const void *from, const uint32_t *lengths, uint32_t count,
                       int flags);
/* Whole frames, as many as are there, at most `count`, without their heads: the ith ends at to[ends[i]]. How many. 0: none
 * yet (a part stays in the ring), and that is announced. -EMSGSIZE: the next one, of ends[0] bytes, does not fit into `to`
 * or can never be whole in the ring: read it in pieces. */
long pore_read_frames(struct pore_table *table, pore_id id, void *to, size_t length, uint32_t *ends, uint32_t count,
                      int flags);
/* Tells the peer what we have read and written since the last poke, if it is to be told. 1: told, 0: nothing to tell. */
int pore_poke(struct pore_table *table, pore_id id);
/* Free bytes (tube: slots) for output, now; announces nothing. */
long pore_slots(struct pore_table *table, pore_id id);
/* 1: `slots` are free now. 0: not yet; the fd becomes readable when they are (a peer that does not suppress pokes earlier
 * and often: ask again). -EINVAL: never so many. */
int pore_notify_when(struct pore_table *table, pore_id id, uint32_t slots);

enum pore_what {
    PORE_IN = 1,
    PORE_OUT = 2,
    PORE_MORE = 4 /* more to read than the last call has seen: after pore_read_frames found no whole one */
};

/* Waits until there are `slots` bytes or packets to read (PORE_IN; 0: any), or `slots` are free (PORE_OUT): spins, or offers
 * the peer our cpu, as far as that has paid before, then sleeps. 1: there is. 0: timeout (microseconds, < 0 = none).
 * -EINTR: a signal; wait again. -EPIPE and -EBADF also while it sleeps. */
int pore_wait(struct pore_table *table, pore_id id, int what, uint32_t slots, int64_t timeout_us);
/* Only what pore_wait does before it sleeps, as far as that has paid here: 1: there is. 0: not yet. It may offer our cpu to
 * others, once or twice. */
int pore_spin(struct pore_table *table, pore_id id, int what, uint32_t slots);

/* What a reader of frames says again and again, in one piece: for callers to whom every argument is dear. */
struct pore_inbox {
    struct pore_table *table;
    pore_id id;
    void *to;
    size_t length;
    uint32_t *ends;
    uint32_t count;
    int flags;
    int64_t timeout_us; /* of pore_wait_frames */
    uint32_t same;      /* out: the length of all that were read, if they have the same */
    /* Where a frame of this size goes, instead of to `to`; NULL: nowhere, it stays. The pore is locked meanwhile. */
    void *(*place)(void *context, uint32_t size);
    void *context;
};
/* pore_read_frames. */
long pore_take_frames(struct pore_inbox *inbox);
/* The same when the fd is readable: takes what has arrived of pokes first. Room that is wished for is pore_avail's matter. */
long pore_drain_frames(struct pore_inbox *inbox);
/* Waits as pore_wait does until a frame is whole, and reads as pore_read_frames. 0: timeout. */
long pore_wait_frames(struct pore_inbox *inbox);

/* ---- the end ---- */

/* Unmaps, closes the channels, calls the destructor; all done when it returns 0. Waiters get -EBADF. */
int pore_close(struct pore_table *table, pore_id id);
/* Closes all pores with this owner; how many. */
int pore_close_owned(struct pore_table *table, uint64_t owner);
/* Closes all; how many. */
int pore_close_all(struct pore_table *table);

/* ---- Xen: the kernel's devices (docs/xen.md); -ENOSYS where this was built without their headers ----
 *
 * Each returns a descriptor, whose close is the end of what it stands for, or -errno: -ENOENT, -EACCES (no such device, not
 * ours to open), -EINVAL (no such domain or port, a domain's own id), -ENOSPC (the kernel's limit of granted pages). */

/* A new grant of zeroed pages, for `peer` to map. `own`: our domid, to which nothing is ever granted. Closed while the peer
 * has pages mapped, the kernel keeps them until it has not; nobody can map them anew. */
int xen_grant(uint32_t own, uint32_t peer, uint32_t pages, uint32_t *refs);
/* 1: the peer says that it has the grant mapped. 0: it has not, or does not say (LING's layout). */
int xen_still_mapped(int grant, uint32_t pages);
/* Pages that a peer has granted, in the order of `refs`. What is wrong with a ref is found out by the maker (-EINVAL).
 * To be closed when the pore is open: unmapping tells the peer when no descriptor is left. */
int xen_map(uint32_t peer, const uint32_t *refs, uint32_t pages);
/* A channel to which `peer` may bind; one bound to that of `peer`. *port is ours. */
int xen_alloc_channel(uint32_t peer, uint32_t *port);
int xen_bind_channel(uint32_t peer, uint32_t peer_port, uint32_t *port);
/* One program of the domain at a time has the lock of a kind (enum xen_lock): a descriptor, or -EBUSY. */
enum xen_lock_of { XEN_LOCK_STRAW = 0, XEN_LOCK_TUBE = 1 };
int xen_lock(int of);

/* ---- the host's client (docs/host-protocol.md): messages and descriptors, nothing blocks ---- */

enum host_op {
    HOST_HELLO = 1,
    HOST_GRANT = 2,
    HOST_END_ACCESS = 3,
    HOST_MAP = 4,
    HOST_UNMAP = 5,
    HOST_EVTCHN_ALLOC = 6,
    HOST_EVTCHN_BIND = 7,
    HOST_EVTCHN_CLOSE = 8,
    HOST_XENSTORE = 9,
    HOST_DOMAINS = 10,
    HOST_UNMAPPED = 1,   /* event */
    HOST_DOMAIN_GONE = 2 /* event */
};
enum host_kind { HOST_REPLY = 1, HOST_EVENT = 2 };
enum host_limit { HOST_ARGS_MAX = 1022, HOST_VERSION = 1 };

struct host_message {
    int kind; /* enum host_kind */
    int op;
    int status; /* reply: 0 or -errno */
    uint32_t sequence;
    int fd; /* the caller's from now on; -1: none */
    uint32_t count;
    uint32_t args[1022];
};

struct host;

/* -ENOENT, -ECONNREFUSED: nobody there; -EAGAIN: its queue of connections is full. */
int host_connect(const char *path, struct host **host);
/* Owns fd (a connected AF_UNIX SOCK_SEQPACKET) if and only if it returns 0. */
int host_from_fd(int fd, struct host **host);
/* To be polled. -EPIPE after host_close or an error. */
int host_fd(struct host *host);
/* The sequence number (1..2^31-1) that the reply will have; -EAGAIN: the socket is full; -EPIPE: the host is gone. */
int host_send(struct host *host, int op, const uint32_t *args, uint32_t count);
/* 1: a message. 0: none now. -EPIPE: the host is gone. -EPROTO: not our protocol, a descriptor that was not expected or is not
 * what it has to be (unsealed or short memory, no socket); it was closed, and so is the connection. */
int host_receive(struct host *host, struct host_message *message);
void host_close(struct host *host);

#endif
