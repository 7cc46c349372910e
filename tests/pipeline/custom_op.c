/* TRT:Middle, the absolute values of a float tensor, as a library of custom ops for onnxruntime.
 *
 * No header of onnxruntime is at hand: the functions of its C interface that are used stand here by their positions in
 * OrtApi, which never change, and OrtCustomOp is that of its first version.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>

enum { CREATE_DOMAIN = 26, DOMAIN_ADD = 27, ADD_DOMAIN = 28, TENSOR_DATA = 51, DIMENSION_COUNT = 61, DIMENSIONS = 62,
       ELEMENT_COUNT = 64, TYPE_AND_SHAPE = 65, CONTEXT_INPUT = 90, CONTEXT_OUTPUT = 91, RELEASE_SHAPE = 99 };
enum { FLOAT = 1 };

typedef void *Call(void);
typedef struct { Call *calls[100]; } Api;
typedef struct { const Api *(*get)(uint32_t); const char *(*version)(void); } ApiBase;

typedef struct Op {
    uint32_t version;
    void *(*create)(const struct Op *, const Api *, const void *);
    const char *(*name)(const struct Op *);
    const char *(*provider)(const struct Op *);
    int (*input_type)(const struct Op *, size_t);
    size_t (*inputs)(const struct Op *);
    int (*output_type)(const struct Op *, size_t);
    size_t (*outputs)(const struct Op *);
    void (*compute)(void *, void *);
    void (*destroy)(void *);
    int (*input_kind)(const struct Op *, size_t);
    int (*output_kind)(const struct Op *, size_t);
} Op;

static const Api *api;

static void *create(const Op *op, const Api *given, const void *info) { (void)op; (void)info; return (void *)given; }
static const char *name(const Op *op) { (void)op; return "Middle"; }
static const char *provider(const Op *op) { (void)op; return NULL; }
static int type(const Op *op, size_t index) { (void)op; (void)index; return FLOAT; }
static size_t one(const Op *op) { (void)op; return 1; }
static int required(const Op *op, size_t index) { (void)op; (void)index; return 0; }
static void destroy(void *kernel) { (void)kernel; }

static void compute(void *kernel, void *context) {
    const void *input;
    void *shape, *output, *from, *to;
    size_t axes, count;
    int64_t dims[8];
    (void)kernel;
    ((void *(*)(const void *, size_t, const void **))api->calls[CONTEXT_INPUT])(context, 0, &input);
    ((void *(*)(const void *, void **))api->calls[TYPE_AND_SHAPE])(input, &shape);
    ((void *(*)(const void *, size_t *))api->calls[DIMENSION_COUNT])(shape, &axes);
    ((void *(*)(const void *, int64_t *, size_t))api->calls[DIMENSIONS])(shape, dims, axes);
    ((void *(*)(const void *, size_t *))api->calls[ELEMENT_COUNT])(shape, &count);
    ((void (*)(void *))api->calls[RELEASE_SHAPE])(shape);
    ((void *(*)(void *, size_t, const int64_t *, size_t, void **))api->calls[CONTEXT_OUTPUT])(context, 0, dims, axes, &output);
    ((void *(*)(const void *, void **))api->calls[TENSOR_DATA])(input, &from);
    ((void *(*)(void *, void **))api->calls[TENSOR_DATA])(output, &to);
    for (size_t i = 0; i < count; i++) ((float *)to)[i] = fabsf(((float *)from)[i]);
}

static const Op middle = {1, create, name, provider, type, one, type, one, compute, destroy, required, required};

void *RegisterCustomOps(void *options, const ApiBase *base) {
    void *domain, *status;
    api = base->get(1);
    status = ((void *(*)(const char *, void **))api->calls[CREATE_DOMAIN])("TRT", &domain);
    if (status == NULL) status = ((void *(*)(void *, const void *))api->calls[DOMAIN_ADD])(domain, &middle);
    if (status == NULL) status = ((void *(*)(void *, void *))api->calls[ADD_DOMAIN])(options, domain);
    return status;
}
