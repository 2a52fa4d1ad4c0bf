/* Terms to bytes (erl_ext_dist): the bytes that OTP 28's term_to_binary writes, or those that LING takes.
 *
 * Iterative, and safe against containers that hold themselves or change meanwhile. What a peer would drop the whole
 * connection for is refused with an EncodeError that says where in the value it stands.
 *
 * References are borrowed throughout: no Python code runs between begin and end of an encode, because the collector is
 * off, subclasses are read as their base without calling their methods, and nothing that is held is let go.
 */
#include "encode.h"

/* ---- errors with a path ---- */

static PyObject *short_repr(PyObject *key)
{
    PyObject *text = PyObject_Repr(key);
    if (text == NULL) {
        PyErr_Clear();
        return PyUnicode_FromString("...");
    }
    if (PyUnicode_GET_LENGTH(text) > 60) {
        PyObject *head = PyUnicode_Substring(text, 0, 57);
        Py_DECREF(text);
        text = head == NULL ? NULL : PyUnicode_FromFormat("%U...", head);
        Py_XDECREF(head);
    }
    return text;
}

static int is_plain(State *state, PyObject *key)
{
    PyTypeObject *type = Py_TYPE(key);
    return type == &PyUnicode_Type || type == &PyBytes_Type || type == &PyLong_Type || type == &PyFloat_Type ||
           type == &PyBool_Type || type == state->atom_type || key == Py_None;
}

static PyObject *step_text(Encoder *e, const Frame *f)
{
    PyObject *text;
    switch (f->kind) {
    case E_IMPROPER:
        return f->i > f->n ? PyUnicode_FromString(".tail") : PyUnicode_FromFormat(".items[%zd]", f->i - 1);
    case E_FREE:
        return PyUnicode_FromFormat(".free[%zd]", f->i - 1);
    case E_VALUES:
        return PyUnicode_FromFormat(".values[%zd]", f->i - 1);
    case E_PAIRS:
        return PyUnicode_FromFormat(".pairs[%zd][%d]", f->i - 1, f->value_next ? 0 : 1);
    case E_DICT:
        if (f->key != NULL && is_plain(e->state, f->key)) {
            PyObject *key = short_repr(f->key);
            text = key == NULL ? NULL : PyUnicode_FromFormat(f->value_next ? "<key %U>" : "[%U]", key);
            Py_XDECREF(key);
            return text;
        }
        return PyUnicode_FromFormat(f->value_next ? "<key %zd>" : "<value %zd>", f->i - 1);
    default:
        return PyUnicode_FromFormat("[%zd]", f->i - 1);
    }
}

static PyObject *path_text(Encoder *e)
{
    PyObject *path = PyUnicode_FromString("");
    for (Py_ssize_t i = 0; path != NULL && i < e->depth; i++) {
        PyObject *step;
        if (i == 40 && e->depth > 80) { /* a long way down: the middle is left out */
            step = PyUnicode_FromString("[...]");
            i = e->depth - 20;
        } else {
            step = step_text(e, &e->stack[i]);
        }
        if (step == NULL)
            Py_CLEAR(path);
        else
            PyUnicode_AppendAndDel(&path, step);
    }
    return path;
}

int refuse(Encoder *e, const char *format, ...)
{
    PyErr_Clear();
    va_list va;
    va_start(va, format);
    PyObject *reason = PyUnicode_FromFormatV(format, va);
    va_end(va);
    PyObject *path = reason == NULL ? NULL : path_text(e);
    PyObject *error = path == NULL ? NULL : PyObject_CallFunctionObjArgs(e->state->encode_error, reason, path, NULL);
    if (error != NULL)
        PyErr_SetObject(e->state->encode_error, error);
    Py_XDECREF(error);
    Py_XDECREF(reason);
    Py_XDECREF(path);
    return -1;
}

/* ---- containers ---- */

static int push(Encoder *e, FrameKind kind, PyObject *obj, PyObject *items, Py_ssize_t n)
{
    if (e->depth >= e->max_depth)
        return refuse(e, "nested more than %zd deep, or a container within itself", e->max_depth);
    if (e->depth == e->room) {
        size_t size = sizeof(Frame) * (size_t)e->room;
        Frame *more = PyMem_Malloc(2 * size);
        if (more == NULL) {
            PyErr_NoMemory();
            return -1;
        }
        memcpy(more, e->stack, size);
        if (e->stack != e->inline_frames)
            PyMem_Free(e->stack);
        e->stack = more;
        e->room *= 2;
    }
    Frame *f = &e->stack[e->depth], *outer = f - 1;
    memset(f, 0, sizeof *f);
    f->kind = kind;
    f->obj = obj;
    f->items = items;
    f->n = n;
    f->first_mark = e->mark_count;
    if (e->depth > 0)
        f->in_key = outer->in_key || ((outer->kind == E_DICT || outer->kind == E_PAIRS) && outer->value_next &&
                                      (outer->kind == E_PAIRS || (outer->classes & K_OTHER)));
    e->depth++;
    return 0;
}

int put_head(Encoder *e, uint8_t tag, Py_ssize_t count)
{
    if ((uint64_t)count > UINT32_MAX)
        return refuse(e, "a container of more than 2^32 elements");
    if (writer_need(e->w, 16) < 0)
        return -1;
    e->w->p[0] = tag;
    put32(e->w->p + 1, (uint32_t)count);
    e->w->p += 5;
    return 0;
}

static int begin_tuple(Encoder *e, PyObject *tuple)
{
    Py_ssize_t n = PyTuple_GET_SIZE(tuple);
    if (n < 256) {
        if (writer_need(e->w, 2) < 0)
            return -1;
        e->w->p[0] = TAG_SMALL_TUPLE;
        e->w->p[1] = (uint8_t)n;
        e->w->p += 2;
    } else if (put_head(e, TAG_LARGE_TUPLE, n) < 0) {
        return -1;
    }
    return n == 0 ? 0 : push(e, E_TUPLE, tuple, tuple, n);
}

static inline int is_byte(PyObject *item)
{
    int64_t value;
    return (PyLong_CheckExact(item) || (PyLong_Check(item) && !PyBool_Check(item))) && compact_int(item, &value) &&
           value >= 0 && value < 256;
}

static int begin_list(Encoder *e, PyObject *list)
{
    Py_ssize_t n = PyList_GET_SIZE(list), i = 0;
    Writer *w = e->w;
    if (n == 0) {
        if (writer_need(w, 1) < 0)
            return -1;
        *w->p++ = TAG_NIL;
        return 0;
    }
    if (n <= UINT16_MAX && is_byte(PyList_GET_ITEM(list, 0))) {
        /* a list of bytes only goes as a string, as term_to_binary does */
        for (i = 1; i < n && is_byte(PyList_GET_ITEM(list, i)); i++)
            ;
        if (i == n) {
            if (writer_need(w, (size_t)n + 3) < 0)
                return -1;
            w->p[0] = TAG_STRING;
            put16(w->p + 1, (uint16_t)n);
            w->p += 3;
            for (i = 0; i < n; i++) {
                int64_t value = 0;
                compact_int(PyList_GET_ITEM(list, i), &value);
                *w->p++ = (uint8_t)value;
            }
            return 0;
        }
    }
    return put_head(e, TAG_LIST, n) < 0 ? -1 : push(e, E_LIST, list, list, n);
}

static int begin_map(Encoder *e, PyObject *obj, PyObject *pairs)
{
    if (e->o->dialect == DIALECT_LING && !e->o->ling_maps)
        return refuse(e, "a map would end a LING node (ling_maps=True allows it)");
    Py_ssize_t n = pairs == NULL ? PyDict_GET_SIZE(obj) : PyTuple_GET_SIZE(pairs);
    if (put_head(e, TAG_MAP, n) < 0)
        return -1;
    return n == 0 ? 0 : push(e, pairs == NULL ? E_DICT : E_PAIRS, obj, pairs, n);
}

static int begin_improper(Encoder *e, PyObject *value)
{
    PyObject *items = record_get(e->state, R_IMPROPER, value, IMPROPER_ITEMS);
    PyObject *tail = record_get(e->state, R_IMPROPER, value, IMPROPER_TAIL);
    if (items == NULL || tail == NULL || !PyTuple_Check(items) || PyTuple_GET_SIZE(items) == 0 || PyList_Check(tail))
        return refuse(e, "an ImproperList needs a tuple of items and a tail that is not a list");
    if (Py_IS_TYPE(tail, e->state->records[R_IMPROPER].type))
        return refuse(e, "the tail of an ImproperList is another one: join their items");
    if (e->o->crossing != NULL && is_alias(e->o->crossing, items, tail))
        return cross_alias(e, value);
    Py_ssize_t n = PyTuple_GET_SIZE(items);
    return put_head(e, TAG_LIST, n) < 0 ? -1 : push(e, E_IMPROPER, value, items, n);
}

static int begin_fun(Encoder *e, PyObject *value)
{
    State *state = e->state;
    uint64_t arity = 0, index = 0;
    PyObject *uniq = record_get(state, R_FUN, value, FUN_UNIQ), *free_vars = record_get(state, R_FUN, value, FUN_FREE);
    PyObject *old_index = record_get(state, R_FUN, value, FUN_OLD_INDEX);
    PyObject *old_uniq = record_get(state, R_FUN, value, FUN_OLD_UNIQ), *pid = record_get(state, R_FUN, value, FUN_PID);
    if (e->o->dialect == DIALECT_LING)
        return refuse(e, "LING does not take the funs of OTP");
    if (field_word(e, R_FUN, value, FUN_ARITY, 255, &arity) < 0 ||
        field_word(e, R_FUN, value, FUN_INDEX, UINT32_MAX, &index) < 0)
        return -1;
    if (uniq == NULL || !PyBytes_Check(uniq) || PyBytes_GET_SIZE(uniq) != 16 || free_vars == NULL ||
        !PyTuple_Check(free_vars) || old_index == NULL || !PyLong_Check(old_index) || old_uniq == NULL ||
        !PyLong_Check(old_uniq) || pid == NULL || !Py_IS_TYPE(pid, state->pid_type))
        return refuse(e, "a Fun whose fields are not those of NEW_FUN_EXT");
    if (writer_need(e->w, 64) < 0)
        return -1;
    Py_ssize_t n = PyTuple_GET_SIZE(free_vars);
    if ((uint64_t)n > UINT32_MAX)
        return refuse(e, "a fun with more than 2^32 free variables");
    uint8_t *p = e->w->p;
    p[0] = TAG_NEW_FUN;
    p[5] = (uint8_t)arity;
    memcpy(p + 6, PyBytes_AS_STRING(uniq), 16);
    put32(p + 22, (uint32_t)index);
    put32(p + 26, (uint32_t)n);
    uint64_t head_at = writer_position(e->w) + 1;
    e->w->p += 30;
    if (e->funs++ == 0) {
        e->pass = e->w->pass;
        e->w->pass = NULL;
    }
    if (field_atom(e, R_FUN, value, FUN_MODULE) < 0 || put_int(e, old_index) < 0 || put_int(e, old_uniq) < 0 ||
        put_plain_pid(e, (Pid *)pid) < 0 || push(e, E_FREE, value, free_vars, n) < 0)
        return -1;
    e->stack[e->depth - 1].head = p + 1;
    e->stack[e->depth - 1].head_at = head_at;
    return 0;
}

/* All of a fun is written: its size, which counts itself and what follows. */
static int finish_fun(Encoder *e, Frame *f)
{
    Writer *w = e->w;
    uint64_t size = writer_position(w) - f->head_at;
    if (size > UINT32_MAX)
        return refuse(e, "a fun of more than 4 GiB");
    put32(w->moves ? w->base + (f->head_at - w->before) : f->head, (uint32_t)size);
    if (--e->funs == 0)
        w->pass = e->pass;
    return 0;
}

static int begin_record(Encoder *e, PyObject *value)
{
    State *state = e->state;
    PyObject *exported = record_get(state, R_RECORD, value, RECORD_EXPORTED);
    PyObject *fields = record_get(state, R_RECORD, value, RECORD_FIELDS);
    PyObject *values = record_get(state, R_RECORD, value, RECORD_VALUES);
    if (e->o->dialect == DIALECT_LING)
        return refuse(e, "LING has no records");
    if (exported == NULL || !PyBool_Check(exported) || fields == NULL || !PyTuple_Check(fields) || values == NULL ||
        !PyTuple_Check(values) || PyTuple_GET_SIZE(fields) != PyTuple_GET_SIZE(values))
        return refuse(e, "a Record needs as many values as fields");
    Py_ssize_t n = PyTuple_GET_SIZE(fields);
    if (put_head(e, TAG_RECORD, n) < 0)
        return -1;
    *e->w->p++ = exported == Py_True;
    if (field_atom(e, R_RECORD, value, RECORD_MODULE) < 0 || field_atom(e, R_RECORD, value, RECORD_NAME) < 0)
        return -1;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *name = PyTuple_GET_ITEM(fields, i);
        if (!Py_IS_TYPE(name, state->atom_type))
            return refuse(e, "a Record whose names are not Atoms");
        if (put_atom(e, (Atom *)name) < 0)
            return -1;
    }
    return n == 0 ? 0 : push(e, E_VALUES, value, values, n);
}

/* Anything that is none of the common exact types. */
static int begin_other(Encoder *e, PyObject *value)
{
    State *state = e->state;
    PyTypeObject *type = Py_TYPE(value);
    if (type == state->records[R_IMPROPER].type)
        return begin_improper(e, value);
    if (type == state->records[R_MAP].type) {
        PyObject *pairs = record_get(state, R_MAP, value, MAP_PAIRS);
        if (pairs == NULL || !PyTuple_Check(pairs))
            return refuse(e, "a Map needs a tuple of pairs");
        return begin_map(e, value, pairs);
    }
    if (type == state->port_type)
        return put_port(e, (Port *)value);
    if (type == state->records[R_EXPORT].type)
        return put_export(e, value);
    if (type == state->records[R_BITS].type)
        return put_bits(e, value);
    if (type == state->records[R_FUN].type)
        return begin_fun(e, value);
    if (type == state->records[R_RECORD].type)
        return begin_record(e, value);
    if (type == state->records[R_LING_PID].type)
        return put_ling_pid(e, value);
    if (type == state->records[R_LOCAL].type)
        return refuse(e, "a LocalTerm stands alone, and goes to no peer");
    if (PyLong_Check(value))
        return put_int(e, value);
    if (PyUnicode_Check(value))
        return put_str(e, value);
    if (PyBytes_Check(value))
        return put_bytes(e, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), value);
    if (PyTuple_Check(value))
        return begin_tuple(e, value);
    if (PyList_Check(value))
        return begin_list(e, value);
    if (PyDict_Check(value))
        return begin_map(e, value, NULL);
    if (PyFloat_Check(value))
        return put_float(e, PyFloat_AS_DOUBLE(value));
    if (PyByteArray_Check(value))
        return put_bytes(e, PyByteArray_AS_STRING(value), PyByteArray_GET_SIZE(value), NULL);
    if (PyMemoryView_Check(value))
        return put_view(e, value);
    return refuse(e, "%.100s has no Erlang term", type->tp_name);
}

static inline int begin(Encoder *e, PyObject *value)
{
    PyTypeObject *type = Py_TYPE(value);
    if (type == &PyLong_Type)
        return put_int(e, value);
    if (type == &PyBytes_Type)
        return put_bytes(e, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), value);
    if (type == e->state->atom_type)
        return put_atom(e, (Atom *)value);
    if (type == &PyUnicode_Type)
        return put_str(e, value);
    if (type == &PyFloat_Type)
        return put_float(e, PyFloat_AS_DOUBLE(value));
    if (type == &PyTuple_Type)
        return begin_tuple(e, value);
    if (type == &PyList_Type)
        return begin_list(e, value);
    if (type == &PyDict_Type)
        return begin_map(e, value, NULL);
    if (type == e->state->pid_type)
        return put_pid(e, (Pid *)value);
    if (type == e->state->reference_type)
        return put_reference(e, (Reference *)value);
    if (type == &PyBool_Type) {
        if (writer_need(e->w, 16) < 0)
            return -1;
        int truth = value == Py_True;
        uint8_t *p = e->w->p;
        *p++ = e->o->dialect == DIALECT_LING ? TAG_SMALL_ATOM : TAG_SMALL_ATOM_UTF8;
        *p++ = truth ? 4 : 5;
        memcpy(p, truth ? "true\0" : "false", 5);
        e->w->p = p + (truth ? 4 : 5);
        return 0;
    }
    if (value == Py_None)
        return put_atom(e, e->o->none);
    return begin_other(e, value);
}

static int changed(Encoder *e)
{
    return refuse(e, "a container changed while it was encoded");
}

/* The end of a map: could two of its keys have become one? */
static int finish_map(Encoder *e, Frame *f)
{
    if (!e->canonical && (f->in_key || (f->kind == E_DICT && !keys_may_meet(f->classes))))
        return 0;
    PyObject *pairs = f->kind == E_PAIRS ? f->items : NULL;
    e->depth--; /* errors are of the map, not of its last value */
    int result = e->canonical ? sort_pairs(e, f) : distinct_keys(e->o, f->obj, pairs);
    if (!e->canonical && (result == 0 || (result < 0 && PyErr_ExceptionMatches(e->state->encode_error))))
        result = refuse(e, "two keys of a map become one term");
    e->depth++;
    return result < 0 ? -1 : 0;
}

/* The next element of the innermost frame into *item (borrowed), 0 when the frame is finished and gone. */
static inline int next_item(Encoder *e, PyObject **item)
{
    Frame *f = &e->stack[e->depth - 1];
    switch (f->kind) {
    case E_TUPLE:
    case E_FREE:
    case E_VALUES:
        if (f->i == f->n) {
            if (f->kind == E_FREE && finish_fun(e, f) < 0)
                return -1;
            break;
        }
        *item = PyTuple_GET_ITEM(f->items, f->i++);
        return 1;
    case E_LIST:
        if (f->i >= PyList_GET_SIZE(f->items)) {
            if (f->i != f->n)
                return changed(e);
            if (writer_need(e->w, 1) < 0)
                return -1;
            *e->w->p++ = TAG_NIL;
            break;
        }
        if (f->i == f->n)
            return changed(e);
        *item = PyList_GET_ITEM(f->items, f->i++);
        return 1;
    case E_IMPROPER:
        if (f->i > f->n)
            break;
        *item = f->i < f->n ? PyTuple_GET_ITEM(f->items, f->i)
                            : record_get(e->state, R_IMPROPER, f->obj, IMPROPER_TAIL);
        f->i++;
        return 1;
    case E_DICT:
        if (e->canonical && (f->value_next || f->i < f->n) && mark_position(e) < 0)
            return -1;
        if (f->value_next) {
            f->value_next = 0;
            *item = f->items;
            return 1;
        }
        {
            PyObject *key, *value;
            if (!PyDict_Next(f->obj, &f->dict_at, &key, &value)) {
                if (f->i != f->n)
                    return changed(e);
                if (finish_map(e, f) < 0)
                    return -1;
                break;
            }
            if (f->i == f->n)
                return changed(e);
            f->i++;
            f->key = key;
            f->items = value;
            f->value_next = 1;
            f->classes |= key_classes(e->state, key, 0);
            *item = key;
            return 1;
        }
    case E_PAIRS: {
        PyObject *pair;
        if (e->canonical && (f->value_next || f->i < f->n) && mark_position(e) < 0)
            return -1;
        if (f->value_next) {
            pair = PyTuple_GET_ITEM(f->items, f->i - 1);
            f->value_next = 0;
            *item = PyTuple_GET_ITEM(pair, 1);
            return 1;
        }
        if (f->i == f->n) {
            if (finish_map(e, f) < 0)
                return -1;
            break;
        }
        pair = PyTuple_GET_ITEM(f->items, f->i++);
        if (!PyTuple_Check(pair) || PyTuple_GET_SIZE(pair) != 2)
            return refuse(e, "the pairs of a Map are tuples of two");
        f->value_next = 1;
        *item = PyTuple_GET_ITEM(pair, 0);
        return 1;
    }
    }
    e->depth--;
    return 0;
}

int encode_nested(const EncodeOptions *o, Writer *w, PyObject *term, int canonical)
{
    Encoder e;
    e.o = o;
    e.state = o->state;
    e.w = w;
    e.canonical = canonical;
    e.marks = NULL;
    e.mark_count = e.mark_room = 0;
    e.stack = e.inline_frames;
    e.depth = 0;
    e.funs = 0;
    e.room = ENCODER_FRAMES;
    e.max_depth = o->dialect == DIALECT_LING ? MAX_LING_DEPTH : MAX_DEPTH;
    PyObject *item = term;
    int result = begin(&e, item);
    while (result == 0 && e.depth > 0) {
        int got = next_item(&e, &item);
        if (got > 0)
            result = begin(&e, item);
        else if (got < 0)
            result = -1;
    }
    if (e.funs > 0)
        w->pass = e.pass;
    if (e.stack != e.inline_frames)
        PyMem_Free(e.stack);
    PyMem_Free(e.marks);
    return result;
}

int encode_term(const EncodeOptions *options, Writer *w, PyObject *term)
{
    State *state = options->state;
    if (options->top_local && Py_IS_TYPE(term, state->records[R_LOCAL].type) && options->dialect == DIALECT_OTP) {
        PyObject *data = record_get(state, R_LOCAL, term, LOCAL_DATA);
        if (data != NULL && PyBytes_Check(data)) {
            size_t length = (size_t)PyBytes_GET_SIZE(data);
            if (writer_need(w, length + 1) < 0)
                return -1;
            *w->p++ = TAG_LOCAL;
            memcpy(w->p, PyBytes_AS_STRING(data), length);
            w->p += length;
            return 0;
        }
    }
    return encode_nested(options, w, term, 0);
}
