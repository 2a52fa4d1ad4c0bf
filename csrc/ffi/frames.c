/* Frames between the ring and Python's objects without a copy in between. Part of the cffi module (build_pore.py), where the
 * GIL is held; only the stable API of Python.
 *
 * Objects come as the addresses that id() tells, because cffi can't hand them over; the caller holds them. An inbox comes
 * likewise, as the address that ffi.cast tells: a number is the cheapest argument. No exception leaves: -EINVAL is what is
 * no bytes or no list, -ENOMEM no memory.
 */

enum { PARTS_MAX = 256 };

/* A new bytes object at the end of the list, to be filled. */
static void *list_place(void *context, uint32_t size) {
    PyObject *frame = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
    int bad = !frame || PyList_Append(context, frame) < 0;
    char *place = bad ? NULL : PyBytes_AsString(frame);
    Py_XDECREF(frame); /* the list has it */
    if (bad) PyErr_Clear();
    return place;
}

static long list_take(struct pore_inbox *inbox, uintptr_t list, int flags, long (*take)(struct pore_inbox *inbox)) {
    int before = inbox->flags;
    long n;
    inbox->place = list_place;
    inbox->context = (PyObject *)list;
    inbox->flags |= flags;
    n = take(inbox);
    inbox->flags = before;
    return n;
}

static long pore_list_frames(uintptr_t inbox, uintptr_t list) {
    return list_take((struct pore_inbox *)inbox, list, 0, pore_take_frames);
}

static long pore_list_drained(uintptr_t inbox, uintptr_t list) {
    return list_take((struct pore_inbox *)inbox, list, 0, pore_drain_frames);
}

static long pore_list_lingered(uintptr_t at, uintptr_t list) {
    struct pore_inbox *inbox = (struct pore_inbox *)at;
    long n = list_take(inbox, list, PORE_QUIET, pore_take_frames);
    if (n) return n;
    n = pore_spin(inbox->table, inbox->id, PORE_MORE, 0);
    return n < 0 ? n : list_take(inbox, list, 0, pore_take_frames);
}

/* 0: something has come that is no frame yet, or the time is over. */
static long pore_list_waited(uintptr_t at, uintptr_t list) {
    struct pore_inbox *inbox = (struct pore_inbox *)at;
    long n = list_take(inbox, list, PORE_QUIET, pore_take_frames);
    if (n) return n;
    n = pore_wait(inbox->table, inbox->id, PORE_MORE, 0, inbox->timeout_us);
    return n < 0 ? n : list_take(inbox, list, PORE_QUIET, pore_take_frames);
}

static int part_of(PyObject *frame, struct pore_part *part) {
    char *data;
    Py_ssize_t length;
    if (!PyBytes_Check(frame) || PyBytes_AsStringAndSize(frame, &data, &length) < 0) return -EINVAL;
    if (length > UINT32_MAX - 4) return -EMSGSIZE;
    *part = (struct pore_part){data, (uint32_t)length};
    return 0;
}

static long pore_put_frame(uintptr_t at, uintptr_t frame) {
    const struct pore_inbox *inbox = (const struct pore_inbox *)at;
    struct pore_part part;
    int error = part_of((PyObject *)frame, &part);
    return error ? error : pore_write_frame(inbox->table, inbox->id, part.data, part.length, PORE_POKE);
}

static long pore_put_frames(uintptr_t at, uintptr_t list, int flags) {
    const struct pore_inbox *inbox = (const struct pore_inbox *)at;
    PyObject *frames = (PyObject *)list;
    struct pore_part parts[PARTS_MAX];
    Py_ssize_t size = PyList_Size(frames), start, i;
    long done = 0, n;
    for (start = 0; start < size; start = done) {
        for (i = 0; i < PARTS_MAX && start + i < size; i++) {
            int error = part_of(PyList_GetItem(frames, start + i), &parts[i]);
            if (error) return done ? done : error;
        }
        n = pore_write_parts(inbox->table, inbox->id, parts, (uint32_t)i, flags);
        if (n < 0) return done ? done : n;
        done += n;
        if (n < i) break;
    }
    return done;
}
