/* The XLA FFI handler of every oneDNN kernel: finds the primitives of a call by its key, hands them the call's
   buffers, runs them. Compiled ahead (`make handler`) for x86-64, position independent, into handler.py, which writes
   the address of the table into it: whoever installs cnnjax needs no compiler.

   The offsets are those of XLA's public header xla/ffi/api/c_api.h, versions 0.3 and 0.4, which agree in them. */

typedef long long i64;

struct buffer { i64 size, ext; int dtype; char *data; };
struct list { i64 size, ext, count; i64 types; struct buffer **items; };
struct attributes { i64 size, ext, count; i64 types, names; struct { i64 dtype; i64 *value; } **items; };
struct metadata { i64 size; struct { i64 size, ext; int major, minor; } version; unsigned traits; };
struct extension { i64 size; int type; struct extension *next; struct metadata *metadata; };
struct api { i64 size, ext; struct { i64 size, ext; int major, minor; } version; i64 internal; i64 (*error_create)(void *); };
struct frame { i64 size; struct extension *extension; struct api *api; i64 context; int stage;
               struct list args, rets; struct attributes attributes; };

/* What Python built: see `Bridge` in handler.py. */
struct bind { i64 memory, is_result, index; };
struct run { i64 primitive, count, args; };
struct state { i64 binds, runs, threads; struct bind items[]; };
struct table {
  i64 mutex[8];
  int (*set_data_handle)(i64, void *), (*execute)(i64, i64, i64, i64), (*wait)(i64);
  i64 stream;
  void *error;
  int (*lock)(void *), (*unlock)(void *);
  void (*set_threads)(int);
  i64 mask, free[7];
  struct { i64 key; struct state *state; } slots[];
};

i64 handler(struct frame *frame) {
  struct table *table;
  __asm__("movabs $0x1122334455667788, %0" : "=r"(table)); /* replaced by the table's address */
  if (frame->extension && frame->extension->type == 1) {   /* XLA asks what this is: speak its own version */
    struct metadata *m = frame->extension->metadata;
    m->version.major = frame->api->version.major;
    m->version.minor = frame->api->version.minor;
    m->traits = 0;
    return 0;
  }
  i64 key = *frame->attributes.items[0]->value, slot = key & table->mask;
  while (table->slots[slot].key != key) {
    if (!table->slots[slot].key) return frame->api->error_create(table->error);
    slot = (slot + 1) & table->mask;
  }
  struct state *state = table->slots[slot].state;
  int failed = 0;
  table->lock(table->mutex); /* primitives own their memory objects: one call at a time */
  table->set_threads(state->threads);
  for (struct bind *b = state->items; b < state->items + state->binds; b++)
    failed |= table->set_data_handle(b->memory, (b->is_result ? &frame->rets : &frame->args)->items[b->index]->data);
  struct run *runs = (struct run *)(state->items + state->binds);
  for (struct run *r = runs; r < runs + state->runs; r++)
    failed |= table->execute(r->primitive, table->stream, r->count, r->args);
  failed |= table->wait(table->stream);
  table->unlock(table->mutex);
  return failed ? frame->api->error_create(table->error) : 0;
}
