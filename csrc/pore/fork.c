/* After fork: the child has the parent's pores as well, and must not. Two would read one ring, and channels that stay open
 * in the child would hide the parent's death from its peers.
 *
 * What other threads did at that moment stays half done here for ever: no lock is waited for, nothing is told to anybody.
 */
#include <sys/mman.h>
#include <unistd.h>

#include "core.h"

static void give_up(struct pore *pore) {
    munmap(pore->base, (size_t)pore->pages * WIRE_PAGE);
    if (pore->fd != pore->channels[0].fd) close(pore->fd);
    for (int i = 0; i < pore->channel_count; i++) {
        close(pore->channels[i].fd);
        if (pore->channels[i].wake >= 0) close(pore->channels[i].wake);
    }
}

void pore_table_forked(struct pore_table *table) {
    for (uint32_t i = 0; i < table->high; i++) {
        struct pore *pore = &table->pores[i];
        /* Without an id it was being closed: whose descriptors these numbers are now nobody knows. */
        if (pore->used && pore->in.id) give_up(pore);
        pore->in.id = pore->out.id = pore->event.id = 0;
        pore->event.waiters = 0;
        pore->event.polling = pore->used = 0;
    }
    table->high = table->free = table->count = 0;
    pore_table_init(table, table->capacity);
}
