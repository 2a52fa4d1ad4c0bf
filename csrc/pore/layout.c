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

/* On Xen only: a socket tells of its end by itself. Without the magic the page is a LING's: nobody says who is there. */
static void lay_presence(struct pore *pore) {
    struct wire_presence *shared = (void *)((uint8_t *)pore->base + WIRE_PRESENCE);
    ring_byte *active = (ring_byte *)(void *)&shared->active, *passive = (ring_byte *)(void *)&shared->passive;
    bool ours = pore->role == PORE_ACTIVE;
    if (pore->backend != &pore_xen_backend) return;
    if (ours) {
        ring_store_byte(active, PRESENCE_HERE);
        ring_store_byte(passive, PRESENCE_NOT_YET);
        ring_store_index(word(&shared->magic), PRESENCE_MAGIC);
    } else if (ring_load_index(word(&shared->magic)) == PRESENCE_MAGIC) {
        ring_store_byte(passive, PRESENCE_HERE);
    } else {
        return;
    }
    for (int i = 0; i < pore->channel_count; i++) {
        pore->channels[i].ours = ours ? active : passive;
        pore->channels[i].theirs = ours ? passive : active;
    }
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
    lay_presence(pore);
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
    lay_presence(pore);
    return own_indexes(pore);
}

/* One descriptor for all that may become readable: both channels of a tube, and what our own hanging up makes so. */
static int poll_all(struct pore *pore) {
    struct epoll_event event = {.events = EPOLLIN};
    int fd, error = 0;
    pore->fd = pore->channels[0].fd;
    if (pore->channel_count == 1 && pore->channels[0].wake < 0) return 0;
    fd = epoll_create1(EPOLL_CLOEXEC);
    if (fd < 0) return -errno;
    for (int i = 0; i < pore->channel_count && !error; i++) {
        struct channel *channel = &pore->channels[i];
        if (epoll_ctl(fd, EPOLL_CTL_ADD, channel->fd, &event) < 0) error = -errno;
        else if (channel->wake >= 0 && epoll_ctl(fd, EPOLL_CTL_ADD, channel->wake, &event) < 0) error = -errno;
    }
    if (error) close(fd);
    else pore->fd = fd;
    return error;
}

static void side_init(struct side *side, struct channel *channel) {
    side->reason = PORE_OPEN;
    side->channel = channel;
    side->wish = 0;
    side->slots = NULL;
    side->pokes = side->spared = 0;
    side->spin = (struct spin){0};
}

static const struct pore_backend *backend_of(const struct pore_memory *memory) {
    return memory->platform == PORE_LOCAL ? &pore_local_backend : memory->platform == PORE_XEN ? &pore_xen_backend : NULL;
}

/* Memory and channels are there: lays them out, and is ready to be polled. */
static int lay(struct pore *pore, const struct pore_memory *memory, const uint32_t *refs,
               const struct pore_options *options) {
    int error;
    switch (pore->kind) {
        case PORE_STRAW: error = options->ring_bytes ? lay_wide(pore, options->ring_bytes) : lay_straw(pore); break;
        case PORE_TUBE: error = lay_tube(pore, refs); break;
        default: error = lay_xenstore(pore);
    }
    if (!error) error = pore->backend->arm(pore, memory);
    return error ? error : poll_all(pore);
}

static int fill(struct pore *pore, int kind, const struct pore_memory *memory, const int *channels, int channel_count,
                const uint32_t *refs, const struct pore_options *options) {
    int error = 0, taken = 0;
    if (options->role != PORE_ACTIVE && options->role != PORE_PASSIVE) return -EINVAL;
    if (options->spin_us < PORE_SPIN_DEFAULT) return -EINVAL;
    if ((kind != PORE_STRAW && options->ring_bytes) || (!options->ring_bytes && options->suppress)) return -EINVAL;
    pore->pages = kind == PORE_STRAW ? pore_straw_pages(options->ring_bytes) : kind == PORE_TUBE ? PORE_TUBE_PAGES : 1;
    pore->backend = backend_of(memory);
    if (!pore->pages || !pore->backend) return -EINVAL;
    if (channel_count > 1 && channels[0] == channels[1]) return -EINVAL;
    pore->kind = kind;
    pore->role = options->role;
    pore->spin_us = options->spin_us;
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
    while (!error && taken < channel_count) {
        error = pore->backend->take(&pore->channels[taken], channels[taken], options->ports[taken]);
        taken += !error;
    }
    if (!error) error = pore->backend->map(memory, pore->pages, &pore->base);
    if (!error) {
        error = lay(pore, memory, refs, options);
        if (error) pore->backend->unmap(&pore->channels[0], pore->base, (size_t)pore->pages * WIRE_PAGE);
    }
    while (error && taken) pore->backend->drop(&pore->channels[--taken]);
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
    const struct pore_backend *backend = backend_of(page);
    struct wire_tube *shared;
    void *base;
    int error = backend ? backend->map(page, 1, &base) : -EINVAL;
    if (error) return error;
    shared = base;
    for (uint32_t i = 0; i < PORE_TUBE_BUFFERS; i++) {
        struct wire_slot *slot = i < TUBE_SLOTS ? &shared->tx.slots[i] : &shared->rx.slots[i - TUBE_SLOTS];
        refs[i] = ring_load_index(word(&slot->gref));
    }
    backend->unmap(NULL, base, WIRE_PAGE);
    return 0;
}
