/* Reading, writing, poking: what every kind of pore can. */
#define _GNU_SOURCE
#include "core.h"

/* Long copies are published in parts of so many bytes: the peer takes one while we make the next. */
enum { PART = 32768 };

int reason_error(int reason) { return reason == PORE_CORRUPT ? -EBADMSG : -EPIPE; }

/* Locks one side of an open pore. */
static int enter(struct pore_table *table, pore_id id, int what, struct pore **pore, struct side **side) {
    if (!(*pore = table_find(table, id))) return -EBADF;
    *side = what == PORE_IN ? &(*pore)->in : &(*pore)->out;
    pthread_mutex_lock(&(*side)->lock);
    if ((*side)->id == id) return 0;
    pthread_mutex_unlock(&(*side)->lock);
    return -EBADF;
}

/* Unlocks. What was found out about the peer goes to both sides, and to the owner. */
static void leave(struct pore *pore, struct side *side, pore_id id, long result) {
    pthread_mutex_unlock(&side->lock);
    if (result == -EBADMSG) pore_fail_with(pore, id, PORE_CORRUPT);
}

/* Is the peer to be told of this side's progress? */
static bool due(struct side *side) {
    bool must;
    if (side->ring.told) return false;
    must = ring_must_poke(&side->ring);
    side->pokes += must;
    side->spared += !must;
    return must;
}

static int tell(struct pore *pore, struct side *side) { return due(side) ? pore->backend->poke(side->channel) : 0; }

/* ---- reading ---- */

static long read_stream(struct side *side, void *to, size_t length, bool announce) {
    struct ring *r = &side->ring;
    uint32_t n, done, part;
    int error;
    if (r->known < length) {
        error = ring_look(r);
        if (!error && !r->known && length && announce) error = ring_announce(r, 1);
        if (error) return error;
    }
    n = r->known < length ? r->known : (uint32_t)length;
    for (done = 0; done < n; done += part) {
        part = n - done < PART ? n - done : PART;
        ring_copy_out(r, 0, (uint8_t *)to + done, part);
        ring_publish(r, part);
    }
    return n;
}

static long read_packet(struct side *side, void *to, size_t length) {
    struct ring *r = &side->ring;
    uint32_t size;
    int error;
    if (!r->known) {
        error = ring_look(r);
        if (error) return error;
        if (!r->known) return 0;
    }
    size = ring_load_index((ring_word *)(void *)&side->slots[r->index].len);
    if (!size || size > TUBE_PACKET) return -EBADMSG;
    if (size > length) return -EMSGSIZE;
    memcpy(to, r->data + (size_t)r->index * TUBE_PACKET, size);
    ring_publish(r, 1);
    return size;
}

static long read_frames(struct side *side, const struct pore_inbox *inbox, bool announce) {
    struct ring *r = &side->ring;
    uint32_t at = 0, used = 0, n = 0, count = inbox->count, *ends = inbox->ends, size;
    size_t length = inbox->length;
    uint8_t head[4], *place;
    int error;
    if (side->slots || !count) return -EINVAL;
    if ((error = ring_look(r))) return error;
    for (;;) {
        while (n < count && r->known - at >= 4) {
            ring_copy_out(r, at, head, 4);
            size = (uint32_t)head[0] << 24 | (uint32_t)head[1] << 16 | (uint32_t)head[2] << 8 | head[3];
            if (size > r->most - 4 || size > length - used) {
                if (n) break;
                ends[0] = size;
                return -EMSGSIZE;
            }
            if (r->known - at - 4 < size) break;
            place = inbox->place ? inbox->place(inbox->context, size) : (uint8_t *)inbox->to + used;
            if (!place) {
                if (at) ring_publish(r, at);
                return n ? (long)n : -ENOMEM;
            }
            if (size) ring_copy_out(r, at + 4, place, size);
            at += size + 4;
            ends[n++] = used += size;
            if (at >= PART) {
                ring_publish(r, at);
                at = 0;
            }
        }
        if (n || !announce) break;
        /* A part is there, perhaps: any more of it is what we wait for. */
        size = r->known;
        if ((error = ring_announce(r, size + 1))) return error;
        if (r->known == size) break;
    }
    if (at) ring_publish(r, at);
    return n;
}

static long read_any(struct pore_table *table, pore_id id, void *to, size_t length, const struct pore_inbox *inbox,
                     int flags) {
    struct pore *pore;
    struct side *side;
    int error = enter(table, id, PORE_IN, &pore, &side), reason;
    bool announce = !(flags & PORE_QUIET);
    long n;
    if (error) return error;
    reason = side->reason;
    if (reason == PORE_CORRUPT) {
        n = -EBADMSG;
    } else {
        n = inbox         ? read_frames(side, inbox, announce)
            : side->slots ? read_packet(side, to, length)
                          : read_stream(side, to, length, announce);
        if (n == 0 && (inbox || length) && reason) n = reason_error(reason);
        if (n > 0 && (flags & PORE_POKE) && !reason && tell(pore, side) < 0) {
            leave(pore, side, id, 0);
            pore_fail_with(pore, id, PORE_PEER_GONE);
            return n;
        }
    }
    leave(pore, side, id, n);
    return n;
}

long pore_read(struct pore_table *table, pore_id id, void *to, size_t length, int flags) {
    return read_any(table, id, to, length, NULL, flags);
}

long pore_read_frames(struct pore_table *table, pore_id id, void *to, size_t length, uint32_t *ends, uint32_t count,
                      int flags) {
    struct pore_inbox inbox = {.to = to, .length = length, .ends = ends, .count = count};
    return ends ? read_any(table, id, NULL, 0, &inbox, flags) : -EINVAL;
}

long take_frames(struct pore_inbox *inbox, int flags) {
    uint32_t *ends = inbox->ends, i = 1;
    long n = ends ? read_any(inbox->table, inbox->id, NULL, 0, inbox, flags) : -EINVAL;
    if (n > 0) {
        while (i < n && ends[i] - ends[i - 1] == ends[0]) i++;
        inbox->same = i == n ? ends[0] : 0;
    }
    return n;
}

long pore_take_frames(struct pore_inbox *inbox) { return take_frames(inbox, inbox->flags); }

/* ---- writing ---- */

/* Somebody waits for `slots` free; a wish is kept until it is met. Is it now? */
static int want_room(struct side *side, uint32_t slots, bool announce) {
    struct ring *r = &side->ring;
    int error = r->known < slots ? ring_look(r) : 0;
    if (error) return error;
    side->wish = 0;
    if (r->known >= slots) return 1;
    if (!announce) return 0;
    error = ring_announce(r, slots);
    if (error) return error;
    if (r->known >= slots) return 1;
    side->wish = slots;
    return 0;
}

/* A partial write waits for the rest, or half a ring: to be woken for less costs more than it brings. */
static int want_rest(struct side *side, size_t rest, bool announce) {
    uint32_t half = side->ring.most / 2 + 1;
    return want_room(side, rest < half ? (uint32_t)rest : half, announce);
}

static long write_stream(struct side *side, const void *from, size_t length, bool announce) {
    struct ring *r = &side->ring;
    size_t done = 0;
    uint32_t n, part;
    int error, more;
    do {
        if (r->known < length - done && (error = ring_look(r))) return error;
        n = r->known < length - done ? r->known : (uint32_t)(length - done);
        for (; n; n -= part, done += part) {
            part = n < PART ? n : PART;
            ring_copy_in(r, 0, (const uint8_t *)from + done, part);
            ring_publish(r, part);
        }
        if (done == length) break;
        /* The peer may have made room meanwhile; then once more. */
        more = want_rest(side, length - done, announce);
        if (more < 0) return more;
    } while (more);
    return (long)done;
}

static long write_packet(struct side *side, const void *from, size_t length, bool announce) {
    struct ring *r = &side->ring;
    int room;
    if (!length) return 0;
    if (length > TUBE_PACKET) return -EMSGSIZE;
    if (!r->known && (room = want_room(side, 1, announce)) <= 0) return room;
    memcpy(r->data + (size_t)r->index * TUBE_PACKET, from, length);
    ring_store_first((ring_word *)(void *)&side->slots[r->index].len, (uint32_t)length);
    ring_publish(r, 1);
    return (long)length;
}

static long write_frame(struct side *side, const void *from, size_t length, bool announce) {
    struct ring *r = &side->ring;
    uint32_t n = (uint32_t)length;
    uint8_t head[4] = {(uint8_t)(n >> 24), (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n};
    int room;
    if (side->slots) return -EINVAL;
    if (length > r->most - 4) return -EMSGSIZE;
    if (r->known < n + 4 && (room = want_room(side, n + 4, announce)) <= 0) return room;
    ring_copy_in(r, 0, head, 4);
    if (n) ring_copy_in(r, 4, from, n);
    ring_publish(r, n + 4);
    return (long)n + 4;
}

static long write_parts(struct side *side, const struct pore_part *parts, uint32_t count, bool announce) {
    uint32_t n;
    for (n = 0; n < count; n++) {
        long done = write_frame(side, parts[n].data, parts[n].length, announce);
        if (done <= 0) return n ? (long)n : done;
    }
    return (long)n;
}

static long write_frames(struct side *side, const uint8_t *from, const uint32_t *lengths, uint32_t count,
                         bool announce) {
    uint32_t n;
    for (n = 0; n < count; n++) {
        long done = write_frame(side, from, lengths[n], announce);
        if (done <= 0) return n ? (long)n : done;
        from += lengths[n];
    }
    return (long)n;
}

enum what { BYTES, FRAME, FRAMES, PARTS };

/* length: of PARTS and FRAMES, how many. */
static long write_any(struct pore_table *table, pore_id id, const void *from, size_t length, int flags, enum what what,
                      const uint32_t *lengths) {
    struct pore *pore;
    struct side *side;
    bool announce = !(flags & PORE_QUIET);
    int error = enter(table, id, PORE_OUT, &pore, &side);
    long n;
    if (error) return error;
    if (side->reason) {
        n = reason_error(side->reason);
    } else {
        n = what == FRAME    ? write_frame(side, from, length, announce)
            : what == PARTS  ? write_parts(side, from, (uint32_t)length, announce)
            : what == FRAMES ? write_frames(side, from, lengths, (uint32_t)length, announce)
            : side->slots    ? write_packet(side, from, length, announce)
                             : write_stream(side, from, length, announce);
        if (n >= 0 && (flags & PORE_POKE) && tell(pore, side) < 0) {
            leave(pore, side, id, 0);
            pore_fail_with(pore, id, PORE_PEER_GONE);
            return n;
        }
    }
    leave(pore, side, id, n);
    return n;
}

long pore_write(struct pore_table *table, pore_id id, const void *from, size_t length, int flags) {
    return write_any(table, id, from, length, flags, BYTES, NULL);
}

long pore_write_frame(struct pore_table *table, pore_id id, const void *from, size_t length, int flags) {
    return write_any(table, id, from, length, flags, FRAME, NULL);
}

long pore_write_frames(struct pore_table *table, pore_id id, const void *from, const uint32_t *lengths, uint32_t count,
                       int flags) {
    return lengths ? write_any(table, id, from, count, flags, FRAMES, lengths) : -EINVAL;
}

long pore_write_parts(struct pore_table *table, pore_id id, const struct pore_part *parts, uint32_t count, int flags) {
    return write_any(table, id, parts, count, flags, PARTS, NULL);
}

int pore_poke(struct pore_table *table, pore_id id) {
    struct pore *pore;
    struct side *in, *out;
    bool due_in, due_out;
    int error = enter(table, id, PORE_IN, &pore, &in);
    if (error) return error;
    out = &pore->out;
    pthread_mutex_lock(&out->lock);
    if (in->reason) {
        error = reason_error(in->reason);
    } else {
        due_in = due(in);
        due_out = due(out);
        if (due_in && pore->backend->poke(in->channel)) error = -EPIPE;
        /* One poke on one channel tells of both directions. */
        if (due_out && !(due_in && in->channel == out->channel) && pore->backend->poke(out->channel)) error = -EPIPE;
        if (!error) error = due_in || due_out;
    }
    pthread_mutex_unlock(&out->lock);
    leave(pore, in, id, 0);
    if (error == -EPIPE) pore_fail_with(pore, id, PORE_PEER_GONE);
    return error;
}

/* ---- asking ---- */

static int avail_in(struct pore_table *table, pore_id id, uint32_t *in) {
    struct pore *pore;
    struct side *side;
    int error = enter(table, id, PORE_IN, &pore, &side);
    if (error) return error;
    if (side->reason == PORE_CORRUPT) {
        error = -EBADMSG;
    } else {
        error = ring_look(&side->ring);
        if (!error && !side->ring.known) error = ring_announce(&side->ring, 1);
        if (!error && !side->ring.known && side->reason) error = reason_error(side->reason);
        *in = side->ring.known;
    }
    leave(pore, side, id, error);
    return error;
}

static int avail_out(struct pore_table *table, pore_id id, uint32_t *out) {
    struct pore *pore;
    struct side *side;
    int error = enter(table, id, PORE_OUT, &pore, &side);
    if (error) return error;
    if (side->reason == PORE_CORRUPT) {
        error = -EBADMSG;
    } else {
        error = ring_look(&side->ring);
        if (!error && side->wish && (error = want_room(side, side->wish, true)) > 0) error = 0;
        *out = side->reason ? 0 : side->ring.known;
    }
    leave(pore, side, id, error);
    return error;
}

int pore_avail(struct pore_table *table, pore_id id, uint32_t *in, uint32_t *out) {
    struct pore *pore = table_find(table, id);
    uint32_t unread = 0, room = 0;
    int error = pore ? event_drain(pore, id) : -EBADF;
    if (error == -EBADF) return error;
    error = avail_in(table, id, &unread);
    if (!error) error = avail_out(table, id, &room);
    if (error) return error;
    if (in) *in = unread;
    if (out) *out = room;
    return 0;
}

long pore_slots(struct pore_table *table, pore_id id) {
    struct pore *pore;
    struct side *side;
    int error = enter(table, id, PORE_OUT, &pore, &side);
    long n;
    if (error) return error;
    n = side->reason ? reason_error(side->reason) : ring_look(&side->ring);
    if (!n) n = side->ring.known;
    leave(pore, side, id, n);
    return n;
}

int pore_notify_when(struct pore_table *table, pore_id id, uint32_t slots) {
    struct pore *pore;
    struct side *side;
    int error = enter(table, id, PORE_OUT, &pore, &side);
    if (error) return error;
    if (side->reason) error = reason_error(side->reason);
    else if (slots > side->ring.most) error = -EINVAL;
    else error = want_room(side, slots, true);
    leave(pore, side, id, error);
    return error;
}

int pore_info(struct pore_table *table, pore_id id, struct pore_info *info) {
    struct pore *pore;
    struct side *side;
    int error = enter(table, id, PORE_IN, &pore, &side);
    if (error) return error;
    *info = (struct pore_info){.kind = pore->kind, .role = pore->role, .reason = side->reason};
    info->channels = pore->channel_count;
    info->owner = pore->owner;
    info->in_size = side->ring.most;
    info->packet_max = side->slots ? TUBE_PACKET : 0;
    info->pages = pore->pages;
    info->suppress = pore->suppress;
    info->in_total = side->ring.total;
    info->pokes = side->pokes;
    info->pokes_spared = side->spared;
    info->spins = side->spin.spins;
    info->spin_hits = side->spin.hits;
    info->sleeps = side->spin.sleeps;
    leave(pore, side, id, 0);
    if ((error = enter(table, id, PORE_OUT, &pore, &side))) return error;
    info->out_size = side->ring.most;
    info->out_total = side->ring.total;
    info->pokes += side->pokes;
    info->pokes_spared += side->spared;
    info->spins += side->spin.spins;
    info->spin_hits += side->spin.hits;
    info->sleeps += side->spin.sleeps;
    pthread_mutex_lock(&pore->event.lock);
    info->irqs = pore->event.irqs;
    pthread_mutex_unlock(&pore->event.lock);
    leave(pore, side, id, 0);
    return 0;
}

int pore_error(struct pore_table *table, pore_id id) {
    struct pore *pore;
    struct side *side;
    int reason = enter(table, id, PORE_IN, &pore, &side);
    if (reason) return reason;
    reason = side->reason;
    leave(pore, side, id, 0);
    return reason;
}

int pore_fail(struct pore_table *table, pore_id id, int reason) {
    struct pore *pore;
    struct side *side;
    int error = reason > PORE_OPEN && reason <= PORE_REFUSED ? enter(table, id, PORE_IN, &pore, &side) : -EINVAL;
    if (error) return error;
    leave(pore, side, id, 0);
    pore_fail_with(pore, id, reason);
    return 0;
}

int pore_fd(struct pore_table *table, pore_id id) {
    struct pore *pore;
    struct side *side;
    int fd = enter(table, id, PORE_IN, &pore, &side);
    if (fd) return fd;
    fd = pore->fd;
    leave(pore, side, id, 0);
    return fd;
}
