/* A stream to the store that looks like XenStore's ring (pore_xs): 1024 bytes each way, avail, read, write, {irq, Xs}.
 * The stream is a socket of a store, or Linux's /dev/xen/xenbus.
 *
 * The device takes one request at a time: it keeps one buffer, which a second request would overwrite, forgets what follows a
 * request in one write, and its write may wait for the store (drivers/xen/xenbus/xenbus_dev_frontend.c). So requests are held
 * back until the last one was answered, and are written on a dirty scheduler. */
#define _GNU_SOURCE
#include "pore_nif.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

ErlNifResourceType *stream_type;

enum { HEAD = 16, OP_WATCH_EVENT = 15 }; /* of a message: op, request, transaction, length; u32 each, little-endian */

struct stream {
    struct polled polled;
    ErlNifMutex *lock; /* of all below */
    atomic_bool hung_up;
    int fd;
    bool ended; /* the store has hung up */
    bool device;
    bool asked;         /* device: a request is not answered yet */
    size_t out_left;    /* device: of the request that is being written */
    size_t head_have, in_left; /* device: of the message that is being read */
    size_t in_size, out_size;
    uint8_t in[XS_RING], out[XS_RING], head[HEAD];
};

/* Whoever holds the lock may be waiting for the store: then it is the one that closes. */
static void close_it(struct stream *s) {
    while (atomic_load(&s->hung_up) && enif_mutex_trylock(s->lock) == 0) {
        bool first = s->fd >= 0;
        close_fd(s->fd);
        s->fd = -1;
        enif_mutex_unlock(s->lock);
        if (!first) break;
    }
}

static void leave(struct stream *s) {
    enif_mutex_unlock(s->lock);
    close_it(s);
}

bool stream_end(ErlNifEnv *env, void *object) {
    struct stream *s = object;
    if (!polled_over(env, s, &s->polled)) return false;
    atomic_store(&s->hung_up, true);
    close_it(s);
    return true;
}

static void stream_free(ErlNifEnv *env, void *object) {
    struct stream *s = object;
    if (s->polled.fd >= 0) stream_end(env, s);
    else close_fd(s->fd);
    if (s->lock) enif_mutex_destroy(s->lock);
    polled_free(&s->polled);
    atomic_fetch_sub(&held->streams, 1);
}

static void stream_owner_down(ErlNifEnv *env, void *object, ErlNifPid *pid, ErlNifMonitor *monitor) {
    (void)pid, (void)monitor;
    stream_end(env, object);
}

static void stream_stop(ErlNifEnv *env, void *object, ErlNifEvent event, int direct) {
    (void)env, (void)object, (void)direct;
    polled_stop(event);
}

static uint32_t get32(const uint8_t *p) {
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

/* How much of what is waiting may be written now. */
static size_t may_write(struct stream *s) {
    if (!s->device) return s->out_size;
    if (s->asked) return 0;
    if (!s->out_left) {
        if (s->out_size < HEAD) return 0;
        s->out_left = HEAD + (size_t)get32(s->out + 12);
    }
    return s->out_left < s->out_size ? s->out_left : s->out_size;
}

/* write() and read(), as xenbus is no socket; the emulator ignores SIGPIPE. */
static void push(struct stream *s) {
    size_t now;
    while (!s->ended && (now = may_write(s))) {
        ssize_t n = write(s->fd, s->out, now);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK) s->ended = true;
        if (n <= 0) break;
        s->out_size -= (size_t)n;
        memmove(s->out, s->out + n, s->out_size);
        if (s->device && !(s->out_left -= (size_t)n)) s->asked = true;
    }
}

/* Looks for the end of an answer in what has come. */
static void follow(struct stream *s, const uint8_t *from, size_t size) {
    while (size) {
        size_t now;
        if (s->head_have < HEAD) {
            now = HEAD - s->head_have < size ? HEAD - s->head_have : size;
            memcpy(s->head + s->head_have, from, now);
            s->head_have += now;
            if (s->head_have == HEAD) s->in_left = get32(s->head + 12);
        } else {
            now = s->in_left < size ? s->in_left : size;
            s->in_left -= now;
        }
        if (s->head_have == HEAD && !s->in_left) {
            if (get32(s->head) != OP_WATCH_EVENT) s->asked = false;
            s->head_have = 0;
        }
        from += now;
        size -= now;
    }
}

static void pull(struct stream *s) {
    while (!s->ended && s->in_size < XS_RING) {
        ssize_t n = read(s->fd, s->in + s->in_size, XS_RING - s->in_size);
        if (n < 0 && errno == EINTR) continue;
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK)) s->ended = true;
        if (n <= 0) break;
        if (s->device) follow(s, s->in + s->in_size, (size_t)n);
        s->in_size += (size_t)n;
    }
}

/* Sends what is waiting, takes what has come, until neither goes on. */
static void flow(struct stream *s) {
    do {
        push(s);
        pull(s);
    } while (s->device && !s->ended && may_write(s));
}

static struct stream *get(ErlNifEnv *env, ERL_NIF_TERM term) {
    void *object;
    return enif_get_resource(env, term, stream_type, &object) ? object : NULL;
}

/* xs_open(Channel) -> {ok, Xs} | {error, Errno}: takes the descriptor. */
NIF(nif_xs_open) {
    struct stream *s;
    ERL_NIF_TERM term;
    void *object;
    struct stat status;
    int error, flags;
    (void)argc;
    if (!enif_get_resource(env, argv[0], channel_type, &object)) return enif_make_badarg(env);
    if (!(s = enif_alloc_resource(stream_type, sizeof *s))) return error_errno(env, ENOMEM);
    memset(s, 0, sizeof *s);
    s->polled.fd = -1;
    atomic_fetch_add(&held->streams, 1);
    term = enif_make_resource(env, s);
    s->fd = atomic_exchange(&((struct channel_end *)object)->fd, -1);
    s->lock = enif_mutex_create((char *)"pore_nif_stream");
    flags = s->fd < 0 ? -1 : fcntl(s->fd, F_GETFL);
    if (!s->lock) error = -ENOMEM;
    else if (flags < 0 || fcntl(s->fd, F_SETFL, flags | O_NONBLOCK) < 0) error = -EBADF;
    else error = fstat(s->fd, &status) < 0 ? -errno : polled_init(&s->polled, s->fd);
    s->device = !error && S_ISCHR(status.st_mode);
    if (!error) error = polled_start(env, s, &s->polled, enif_make_tuple2(env, atom_irq, term));
    if (error && s->polled.fd >= 0) stream_end(env, s);
    enif_release_resource(s);
    return error ? error_errno(env, error) : enif_make_tuple2(env, atom_ok, term);
}

/* xs_avail(Xs) -> {Room, Unread} | {error, host_down} | badarg: closed. */
NIF(nif_xs_avail) {
    struct stream *s = get(env, argv[0]);
    ERL_NIF_TERM message, result;
    bool more_out, more_in;
    (void)argc;
    if (!s) return enif_make_badarg(env);
    enif_mutex_lock(s->lock);
    if (s->fd < 0) {
        leave(s);
        return enif_make_badarg(env);
    }
    if (s->device && s->out_size && enif_thread_type() == ERL_NIF_THR_NORMAL_SCHEDULER) {
        leave(s);
        return enif_schedule_nif(env, "xs_avail", ERL_NIF_DIRTY_JOB_IO_BOUND, nif_xs_avail, argc, argv);
    }
    flow(s);
    more_out = !s->ended && may_write(s);
    more_in = s->in_size < XS_RING && !s->ended;
    if (s->ended && !s->in_size) {
        result = error_tuple(env, "host_down");
    } else {
        result = enif_make_tuple2(env, enif_make_uint64(env, s->ended ? 0 : XS_RING - s->out_size),
                                  enif_make_uint64(env, s->in_size));
    }
    leave(s);
    message = enif_make_tuple2(env, atom_irq, argv[0]);
    if (more_out) polled_arm(env, s, &s->polled, message, true);
    if (more_in) polled_arm(env, s, &s->polled, message, false);
    return result;
}

/* xs_read(Xs) -> Binary: all that xs_avail has seen. */
NIF(nif_xs_read) {
    struct stream *s = get(env, argv[0]);
    ERL_NIF_TERM term;
    bool open;
    (void)argc;
    if (!s) return enif_make_badarg(env);
    enif_mutex_lock(s->lock);
    if ((open = s->fd >= 0)) {
        memcpy(enif_make_new_binary(env, s->in_size, &term), s->in, s->in_size);
        s->in_size = 0;
    }
    leave(s);
    return open ? term : enif_make_badarg(env);
}

/* xs_write(Xs, Binary) -> ok | badarg: there is not so much room. xs_avail sends it. */
NIF(nif_xs_write) {
    struct stream *s = get(env, argv[0]);
    ErlNifBinary from;
    bool fits;
    (void)argc;
    if (!s || !enif_inspect_binary(env, argv[1], &from)) return enif_make_badarg(env);
    enif_mutex_lock(s->lock);
    fits = s->fd >= 0 && from.size <= XS_RING - s->out_size;
    if (fits) {
        memcpy(s->out + s->out_size, from.data, from.size);
        s->out_size += from.size;
    }
    leave(s);
    return fits ? atom_ok : enif_make_badarg(env);
}

int stream_types(ErlNifEnv *env) {
    ErlNifResourceTypeInit init = {stream_free, stream_stop, stream_owner_down, 0, NULL};
    stream_type = enif_open_resource_type_x(env, "stream", &init, RT_FLAGS, NULL);
    return !stream_type;
}
