/* Xen's devices (pore.h, docs/xen.md), and where a store is that is no host service's. All answer at once. */
#define _GNU_SOURCE
#include "pore_nif.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static ERL_NIF_TERM ok(ErlNifEnv *env, ERL_NIF_TERM term) { return enif_make_tuple2(env, atom_ok, term); }

/* xen_grant(Own, Peer, Pages) -> {ok, {[Ref], Memory}} | {error, Errno}. close_fd/1 ends it. */
NIF(nif_xen_grant) {
    uint32_t refs[PORE_RING_MAX / 4096 * 2 + 1];
    unsigned own, peer, pages;
    int fd;
    (void)argc;
    if (!enif_get_uint(env, argv[0], &own) || !enif_get_uint(env, argv[1], &peer) || !enif_get_uint(env, argv[2], &pages))
        return enif_make_badarg(env);
    if (!pages || pages > sizeof refs / sizeof refs[0]) return error_errno(env, EINVAL);
    fd = xen_grant(own, peer, pages, refs);
    if (fd < 0) return error_errno(env, fd);
    return ok(env, enif_make_tuple2(env, make_words(env, refs, pages), memory_make(env, PORE_XEN, fd, pages, NULL)));
}

/* xen_map(Peer, [Ref]) -> {ok, Memory} | {error, Errno}. */
NIF(nif_xen_map) {
    uint32_t *refs;
    unsigned peer;
    long count;
    int fd;
    (void)argc;
    if (!enif_get_uint(env, argv[0], &peer) || (count = get_words(env, argv[1], HOST_ARGS_MAX, &refs)) < 0)
        return enif_make_badarg(env);
    fd = xen_map(peer, refs, (uint32_t)count);
    enif_free(refs);
    return fd < 0 ? error_errno(env, fd) : ok(env, memory_make(env, PORE_XEN, fd, (uint32_t)count, NULL));
}

/* xen_still_mapped(Memory) -> boolean(): the peer says that it has our grant mapped. */
NIF(nif_xen_still_mapped) {
    struct memory *memory;
    void *object;
    int fd;
    (void)argc;
    if (!enif_get_resource(env, argv[0], memory_type, &object)) return enif_make_badarg(env);
    memory = object;
    fd = atomic_load(&memory->fd);
    return fd >= 0 && xen_still_mapped(fd, memory->pages) > 0 ? atom_true : atom_false;
}

static ERL_NIF_TERM channel(ErlNifEnv *env, int fd, uint32_t port) {
    if (fd < 0) return error_errno(env, fd);
    return ok(env, enif_make_tuple2(env, enif_make_uint(env, port), channel_make(env, fd, port)));
}

/* xen_alloc_channel(Peer) -> {ok, {Port, Channel}} | {error, Errno}. */
NIF(nif_xen_alloc_channel) {
    unsigned peer;
    uint32_t port = 0;
    int fd;
    (void)argc;
    if (!enif_get_uint(env, argv[0], &peer)) return enif_make_badarg(env);
    fd = xen_alloc_channel(peer, &port);
    return channel(env, fd, port);
}

/* xen_bind_channel(Peer, PeerPort) -> {ok, {Port, Channel}} | {error, Errno}. */
NIF(nif_xen_bind_channel) {
    unsigned peer, theirs;
    uint32_t port = 0;
    int fd;
    (void)argc;
    if (!enif_get_uint(env, argv[0], &peer) || !enif_get_uint(env, argv[1], &theirs)) return enif_make_badarg(env);
    fd = xen_bind_channel(peer, theirs, &port);
    return channel(env, fd, port);
}

/* xen_lock(Which) -> {ok, Holder} | {error, ebusy}: until close_fd(Holder), or the end of the process. */
NIF(nif_xen_lock) {
    int of, fd;
    (void)argc;
    if (!enif_get_int(env, argv[0], &of)) return enif_make_badarg(env);
    fd = xen_lock(of);
    return fd < 0 ? error_errno(env, fd) : ok(env, channel_make(env, fd, 0));
}

/* store_open(Path) -> {ok, Channel} | {error, Errno}: a socket, or a device as /dev/xen/xenbus; for xs_open. */
NIF(nif_store_open) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    ErlNifBinary name;
    struct stat status;
    int fd;
    (void)argc;
    if (!enif_inspect_binary(env, argv[0], &name) || memchr(name.data, 0, name.size)) return enif_make_badarg(env);
    if (name.size >= sizeof address.sun_path) return error_errno(env, ENAMETOOLONG);
    memcpy(address.sun_path, name.data, name.size);
    if (stat(address.sun_path, &status) < 0) return error_errno(env, errno);
    if (S_ISCHR(status.st_mode)) {
        fd = open(address.sun_path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        return fd < 0 ? error_errno(env, errno) : ok(env, channel_make(env, fd, 0));
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return error_errno(env, errno);
    if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) {
        int error = errno;
        close(fd);
        return error_errno(env, error);
    }
    return ok(env, channel_make(env, fd, 0));
}
