/* The table of pores: ids, owners, and the end of a pore. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "core.h"

enum { CAPACITY_MAX = 65536 };

size_t pore_table_size(uint32_t capacity) {
    if (!capacity || capacity > CAPACITY_MAX) return 0;
    return sizeof(struct pore_table) + capacity * sizeof(struct pore);
}

struct pore_table *pore_table_new(uint32_t capacity) {
    size_t size = pore_table_size(capacity);
    void *memory = size ? calloc(1, size) : NULL;
    return memory ? pore_table_init(memory, capacity) : NULL;
}

struct pore_table *pore_table_init(void *memory, uint32_t capacity) {
    struct pore_table *table = memory;
    pthread_condattr_t attributes;
    table->capacity = capacity;
    pthread_mutex_init(&table->lock, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    for (uint32_t i = 0; i < capacity; i++) {
        struct pore *pore = &table->pores[i];
        pore->index = i;
        pthread_mutex_init(&pore->in.lock, NULL);
        pthread_mutex_init(&pore->out.lock, NULL);
        pthread_mutex_init(&pore->event.lock, NULL);
        pthread_cond_init(&pore->event.changed, &attributes);
    }
    pthread_condattr_destroy(&attributes);
    return table;
}

uint32_t pore_table_count(struct pore_table *table) {
    uint32_t count;
    pthread_mutex_lock(&table->lock);
    count = table->count;
    pthread_mutex_unlock(&table->lock);
    return count;
}

struct pore *table_find(struct pore_table *table, pore_id id) {
    uint32_t index = (uint32_t)id;
    return id && index < table->capacity ? &table->pores[index] : NULL;
}

int table_take(struct pore_table *table, struct pore **pore) {
    int error = 0;
    pthread_mutex_lock(&table->lock);
    if (table->free) {
        *pore = &table->pores[table->free - 1];
        table->free = (*pore)->next_free;
    } else if (table->high < table->capacity) {
        *pore = &table->pores[table->high++];
    } else {
        error = -EMFILE;
    }
    pthread_mutex_unlock(&table->lock);
    return error;
}

void table_give_back(struct pore_table *table, struct pore *pore) {
    pthread_mutex_lock(&table->lock);
    if (pore->used) table->count--;
    pore->used = 0;
    pore->next_free = table->free;
    table->free = pore->index + 1;
    pthread_mutex_unlock(&table->lock);
}

/* The pore is complete: it gets its id. */
pore_id table_publish(struct pore_table *table, struct pore *pore) {
    pore_id id;
    if (!++pore->generation) pore->generation = 1;
    id = (pore_id)pore->generation << 32 | pore->index;
    pthread_mutex_lock(&pore->in.lock);
    pthread_mutex_lock(&pore->out.lock);
    pthread_mutex_lock(&pore->event.lock);
    pore->in.id = pore->out.id = pore->event.id = id;
    pthread_mutex_lock(&table->lock);
    pore->used = 1;
    table->count++;
    pthread_mutex_unlock(&table->lock);
    pthread_mutex_unlock(&pore->event.lock);
    pthread_mutex_unlock(&pore->out.lock);
    pthread_mutex_unlock(&pore->in.lock);
    return id;
}

void pore_fail_with(struct pore *pore, pore_id id, int reason) {
    pthread_mutex_lock(&pore->in.lock);
    pthread_mutex_lock(&pore->out.lock);
    if (pore->in.id == id && !pore->in.reason) {
        pore->in.reason = pore->out.reason = reason;
        for (int i = 0; i < pore->channel_count; i++) pore->backend->hang_up(&pore->channels[i]);
        pthread_mutex_lock(&pore->event.lock);
        pore->event.drains++;
        pthread_cond_broadcast(&pore->event.changed);
        pthread_mutex_unlock(&pore->event.lock);
    }
    pthread_mutex_unlock(&pore->out.lock);
    pthread_mutex_unlock(&pore->in.lock);
}

static int close_if(struct pore_table *table, struct pore *pore, pore_id id, const uint64_t *owner) {
    void (*destroy)(void *);
    void *context;
    pthread_mutex_lock(&pore->in.lock);
    pthread_mutex_lock(&pore->out.lock);
    pthread_mutex_lock(&pore->event.lock);
    if (!pore->in.id || (id && pore->in.id != id) || (owner && pore->owner != *owner)) {
        pthread_mutex_unlock(&pore->event.lock);
        pthread_mutex_unlock(&pore->out.lock);
        pthread_mutex_unlock(&pore->in.lock);
        return -EBADF;
    }
    /* From here no call enters; those that sleep or spin inside are woken and waited for. */
    pore->in.id = pore->out.id = pore->event.id = 0;
    for (int i = 0; pore->event.waiters && i < pore->channel_count; i++) pore->backend->hang_up(&pore->channels[i]);
    pthread_cond_broadcast(&pore->event.changed);
    pthread_mutex_unlock(&pore->out.lock);
    pthread_mutex_unlock(&pore->in.lock);
    while (pore->event.waiters) pthread_cond_wait(&pore->event.changed, &pore->event.lock);
    pthread_mutex_unlock(&pore->event.lock);

    /* Unmapped before the channels close: a peer that sees the end may take the pages back. */
    pore->backend->unmap(&pore->channels[0], pore->base, (size_t)pore->pages * WIRE_PAGE);
    if (pore->fd != pore->channels[0].fd) close(pore->fd);
    for (int i = 0; i < pore->channel_count; i++) pore->backend->close(&pore->channels[i]);
    destroy = pore->destroy;
    context = pore->context;
    table_give_back(table, pore);
    if (destroy) destroy(context);
    return 0;
}

int pore_close(struct pore_table *table, pore_id id) {
    struct pore *pore = table_find(table, id);
    return pore ? close_if(table, pore, id, NULL) : -EBADF;
}

static int close_all(struct pore_table *table, const uint64_t *owner) {
    uint32_t high;
    int closed = 0;
    pthread_mutex_lock(&table->lock);
    high = table->high;
    pthread_mutex_unlock(&table->lock);
    for (uint32_t i = 0; i < high; i++) closed += close_if(table, &table->pores[i], 0, owner) == 0;
    return closed;
}

int pore_close_owned(struct pore_table *table, uint64_t owner) { return close_all(table, &owner); }

int pore_close_all(struct pore_table *table) { return close_all(table, NULL); }

void pore_table_free(struct pore_table *table) {
    if (!table) return;
    close_all(table, NULL);
    for (uint32_t i = 0; i < table->capacity; i++) {
        pthread_mutex_destroy(&table->pores[i].in.lock);
        pthread_mutex_destroy(&table->pores[i].out.lock);
        pthread_mutex_destroy(&table->pores[i].event.lock);
        pthread_cond_destroy(&table->pores[i].event.changed);
    }
    pthread_mutex_destroy(&table->lock);
    free(table);
}
