/* Makers: where in the shared memory the words and the data of each kind of pore are, and who writes which. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "core.h"

static ring_word *word(uint32_t *at) { return (ring_word *)(void *)at; }

/* A ring without content. Producer: all is free; consumer: nothing is unread. */
static void ring_init(struct ring *r, int consumer, uint32_t *prod, uint32_t *cons, uint8_t *data, uint32_t size,
                      uint32_t modulo) {
    *r = (struct ring){.consumer = consumer, .data = data, .size = size, .modulo = modulo, .told = true};
    r->ours = word(consumer ? cons : prod);
    r->theirs = word(consumer ? prod : cons);
    r->most = modulo ? modulo - 1 : size;
    r->known = consumer ? 0 : r->most;
}

uint32_t pore_straw_pages(uint32_t ring_bytes) {
    if (!ring_bytes) return STRAW_PAGES;
    if (ring_bytes < WIDE_RING_MIN || ring_bytes > WIDE_RING_MAX || (ring_bytes & (ring_bytes - 1))) return 0;
    return 1 + 2 * (ring_bytes / WIRE_PAGE);
}

/* The passive side starts at 0 too: memory in which its own indexes are not 0 was not laid out for it. */
static int own_indexes(struct pore *pore) {
    if (pore->role == PORE_ACTIVE) {
        ring_store_first(pore->in.ring.ours, 0);
        ring_store_first(pore->in.ring.theirs, 0);
        ring_store_first(pore->out.ring.ours, 0);
        ring_store_first(pore->out.ring.theirs, 0);
        return 0;
    }
    return ring_load_index(pore->in.ring.ours) || ring_load_index(pore->out.ring.ours) ? -EBADMSG : 0;
}

static int lay_straw(struct pore *pore) {
    struct wire_straw *shared = pore->base;
    int active = pore->role == PORE_ACTIVE;
    ring_init(active ? &pore->in.ring : &pore->out.ring, active, &shared->in_prod, &shared->in_cons, shared->input,
              STRAW_RING, STRAW_RING);
    ring_init(active ? &pore->out.ring : &pore->in.ring, !active, &shared->out_prod, &shared->out_cons, shared->output,
              STRAW_RING, STRAW_RING);
    return own_indexes(pore);
}

static void lay_direction(struct ring *r, int consumer, struct wire_direction *words, uint8_t *data, uint32_t bytes,
                          int suppress) {
    ring_init(r, consumer, &words->prod.value, &words->cons.value, data, bytes, 0);
    if (!suppress) return;
    r->our_wish = word(consumer ? &words->data_wanted.value : &words->space_wanted.value);
    r->their_wish = word(consumer ? &words->space_wanted.value : &words->data_wanted.value);
}

static int lay_wide(struct pore *pore, uint32_t bytes) {
    struct wire_wide *shared = pore->base;
    uint8_t *data = (uint8_t *)pore->base + WIRE_PAGE;
    int active = pore->role == PORE_ACTIVE;
    lay_direction(active ? &pore->in.ring : &pore->out.ring, active, &shared->input, data, bytes, pore->suppress);
    lay_direction(active ? &pore->out.ring : &pore->in.ring, !active, &shared->output, data + bytes, bytes,
                  pore->suppress);
    if (active) {
        ring_store_first(word(&shared->magic), WIDE_MAGIC);
        ring_store_first(word(&shared->version), WIDE_VERSION);
        ring_store_first(word(&shared->ring_bytes), bytes);
    } else if (ring_load_index(word(&shared->magic)) != WIDE_MAGIC ||
               ring_load_index(word(&shared->version)) != WIDE_VERSION ||
               ring_load_index(word(&shared->ring_bytes)) != bytes) {
        return -EBADMSG;
    }
    return own_indexes(pore);
}

static int lay_xenstore(struct pore *pore) {
    struct wire_xenstore *shared = pore->base;
    int store = pore->role == PORE_ACTIVE;
    ring_init(store ? &pore->in.ring : &pore->out.ring, store, &shared->req_prod, &shared->req_cons, shared->req,
              XENSTORE_RING, 0);
    ring_init(store ? &pore->out.ring : &pore->in.ring, !store, &shared->rsp_prod, &shared->rsp_cons, shared->rsp,
              XENSTORE_RING, 0);
    return own_indexes(pore);
}

static int lay_tube(struct pore *pore, const uint32_t *refs) {
    struct wire_tube *shared = pore->base;
    uint8_t *buffers = (uint8_t *)pore->base + WIRE_PAGE;
    int acceptor = pore->role == PORE_ACTIVE;
    struct side *tx = acceptor ? &pore->in : &pore->out, *rx = acceptor ? &pore->out : &pore->in;
    ring_init(&tx->ring, acceptor, &shared->tx.tail, &shared->tx.head, buffers, TUBE_SLOTS, TUBE_SLOTS);
    ring_init(&rx->ring, !acceptor, &shared->rx.tail, &shared->rx.head, buffers + TUBE_SLOTS * WIRE_PAGE, TUBE_SLOTS,
              TUBE_SLOTS);
    tx->slots = shared->tx.slots;
    rx->slots = shared->rx.slots;
    tx->channel = &pore->channels[0];
    rx->channel = &pore->channels[1];
    for (uint32_t i = 0; i < PORE_TUBE_BUFFERS; i++) {
        struct wire_slot *slot = i < TUBE_SLOTS ? &shared->tx.slots[i] : &shared->rx.slots[i - TUBE_SLOTS];
        uint32_t ref = refs ? refs[i] : i + 1;
        if (acceptor) {
            ring_store_first(word(&slot->len), 0);
            ring_store_first(word(&slot->gref), ref);
        } else if (refs && ring_load_index(word(&slot->gref)) != ref) {
            return -EBADMSG;
        }
    }
    return own_indexes(pore);
}

/* One descriptor for both channels of a tube. */
static int poll_both(struct pore *pore) {
    struct epoll_event event = {.events = EPOLLIN};
    int fd = epoll_create1(EPOLL_CLOEXEC), error;
    if (fd < 0) return -errno;
    for (int i = 0; i < 2; i++) {
        if (epoll_ctl(fd, EPOLL_CTL_ADD, pore->channels[i].fd, &event) < 0) {
            error = -errno;
            close(fd);
            return error;
        }
    }
    pore->fd = fd;
    return 0;
}

static void side_init(struct side *side, struct channel *channel) {
    side->reason = PORE_OPEN;
    side->channel = channel;
    side->wish = 0;
    side->slots = NULL;
    side->pokes = side->spared = 0;
    side->spin = (struct spin){0};
}

static int fill(struct pore *pore, int kind, const struct pore_memory *memory, const int *channels, int channel_count,
                const uint32_t *refs, const struct pore_options *options) {
    int error;
    if (options->role != PORE_ACTIVE && options->role != PORE_PASSIVE) return -EINVAL;
    if (options->spin_us < PORE_SPIN_DEFAULT) return -EINVAL;
    if ((kind != PORE_STRAW && options->ring_bytes) || (!options->ring_bytes && options->suppress)) return -EINVAL;
    pore->pages = kind == PORE_STRAW ? pore_straw_pages(options->ring_bytes) : kind == PORE_TUBE ? PORE_TUBE_PAGES : 1;
    if (!pore->pages) return -EINVAL;
    pore->backend = &pore_local_backend;
    pore->kind = kind;
    pore->role = options->role;
    pore->spin_us = sysconf(_SC_NPROCESSORS_ONLN) == 1 ? 0 : options->spin_us; /* one cpu: there is nobody to wait for */
    pore->suppress = options->suppress != 0;
    pore->owner = options->owner;
    pore->destroy = options->destroy;
    pore->context = options->context;
    pore->channel_count = channel_count;
    side_init(&pore->in, &pore->channels[0]);
    side_init(&pore->out, &pore->channels[0]);
    pore->event.waiters = pore->event.drains = 0;
    pore->event.polling = 0;
    pore->event.irqs = 0;
    for (int i = 0; i < channel_count; i++) {
        error = channel_check(&pore->channels[i], channels[i]);
        if (error) return error;
    }
    if (channel_count > 1 && channels[0] == channels[1]) return -EINVAL;
    pore->fd = channels[0];
    error = memory_map(memory, pore->pages, &pore->base);
    if (error) return error;
    switch (kind) {
        case PORE_STRAW: error = options->ring_bytes ? lay_wide(pore, options->ring_bytes) : lay_straw(pore); break;
        case PORE_TUBE: error = lay_tube(pore, refs); break;
        default: error = lay_xenstore(pore);
    }
    if (!error && channel_count > 1) error = poll_both(pore);
    if (error) pore->backend->unmap(pore->base, (size_t)pore->pages * WIRE_PAGE);
    return error;
}

static int make(struct pore_table *table, int kind, const struct pore_memory *memory, const int *channels,
                int channel_count, const uint32_t *refs, const struct pore_options *options, pore_id *id) {
    struct pore *pore;
    int error = table_take(table, &pore);
    if (error) return error;
    error = fill(pore, kind, memory, channels, channel_count, refs, options);
    if (error) {
        table_give_back(table, pore);
        return error;
    }
    *id = table_publish(table, pore);
    return 0;
}

int pore_open_straw(struct pore_table *table, const struct pore_memory *memory, int channel,
                    const struct pore_options *options, pore_id *id) {
    return make(table, PORE_STRAW, memory, &channel, 1, NULL, options, id);
}

int pore_open_xenstore(struct pore_table *table, const struct pore_memory *memory, int channel,
                       const struct pore_options *options, pore_id *id) {
    return make(table, PORE_XENSTORE, memory, &channel, 1, NULL, options, id);
}

int pore_open_tube(struct pore_table *table, const struct pore_memory *memory, int channel_tx, int channel_rx,
                   const uint32_t *refs, const struct pore_options *options, pore_id *id) {
    int channels[2] = {channel_tx, channel_rx};
    return make(table, PORE_TUBE, memory, channels, 2, refs, options, id);
}

int pore_tube_refs(const struct pore_memory *page, uint32_t refs[PORE_TUBE_BUFFERS]) {
    struct wire_tube *shared;
    void *base;
    int error = memory_map(page, 1, &base);
    if (error) return error;
    shared = base;
    for (uint32_t i = 0; i < PORE_TUBE_BUFFERS; i++) {
        struct wire_slot *slot = i < TUBE_SLOTS ? &shared->tx.slots[i] : &shared->rx.slots[i - TUBE_SLOTS];
        refs[i] = ring_load_index(word(&slot->gref));
    }
    pore_local_backend.unmap(base, WIRE_PAGE);
    return 0;
}
