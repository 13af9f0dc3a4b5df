
/* MACROS AND INLINE FUNCTIONS
 * -------------------------------------------------------------------------------------------------------- */

/**
 * A descriptor without callbacks, for `prefork_server_module()`, with the size and versions of this header.
 *
 * Returns the descriptor, by value.
 * Process: any.
 */
static inline struct prefork_module prefork_module_init(void)
{
    struct prefork_module module;
    memset(&module, 0, sizeof module);
    module.size = sizeof module;
    module.abi_major = PREFORK_ABI_MAJOR;
    module.abi_minor = PREFORK_ABI_MINOR;
    return module;
}

/**
 * True if a slice has exactly the bytes of a text: `prefork_slice_is(prefork_request_method(req), "GET")`.
 *
 * Returns 1 or 0; 0 also if there is no value, or `text` is NULL.
 * Process: any, in any thread.
 * Pointers: Borrows the bytes of `slice`, and `text`, which is NUL-terminated, until return.
 */
static inline int prefork_slice_is(prefork_slice slice, const char *text)
{
    return slice.data && text && strlen(text) == slice.len && memcmp(slice.data, text, slice.len) == 0;
}

/**
 * As `prefork_slice_is()`, whatever the case of ASCII letters, for names and values that have none: `keep-alive`.
 *
 * Returns 1 or 0; 0 also if there is no value, or `text` is NULL.
 * Process: any, in any thread.
 * Pointers: Borrows the bytes of `slice`, and `text`, which is NUL-terminated, until return.
 */
static inline int prefork_slice_is_nocase(prefork_slice slice, const char *text)
{
    size_t i;

    if (!slice.data || !text || strlen(text) != slice.len)
        return 0;
    for (i = 0; i < slice.len; i++) {
        unsigned char a = (unsigned char)slice.data[i], b = (unsigned char)text[i];
        if (a != b && ((a ^ b) != 0x20 || (a | 0x20) < 'a' || (a | 0x20) > 'z'))
            return 0;
    }
    return 1;
}

/**
 * Copies a slice, for what is kept longer than the slice, and for functions that take NUL-terminated strings. A NUL in
 * it ends the string for these.
 *
 * Returns a new NUL-terminated string (creates: free it with free(3)); NULL if there is no value, or no memory.
 * Process: any, in any thread.
 * Pointers: Borrows the bytes of `slice` until return.
 */
static inline char *prefork_slice_dup(prefork_slice slice)
{
    char *copy = slice.data ? (char *)malloc(slice.len + 1) : NULL;

    if (copy) {
        memcpy(copy, slice.data, slice.len);
        copy[slice.len] = 0;
    }
    return copy;
}

/* Formats a text as vsnprintf(3) does: into `room` bytes at `buffer`, or if it is longer, into memory for free(3). Its
 * size without the NUL is in `size`. Returns NULL if the format is invalid or there is no memory. */
static inline char *prefork_format_(char *buffer, size_t room, size_t *size, const char *format, va_list arguments)
{
    va_list again;
    char *text = buffer;
    int len;

    va_copy(again, arguments);
    len = vsnprintf(buffer, room, format, arguments);
    if (len >= 0 && (size_t)len >= room) {
        text = (char *)malloc((size_t)len + 1);
        if (text)
            vsnprintf(text, (size_t)len + 1, format, again);
    }
    va_end(again);
    *size = len < 0 ? 0 : (size_t)len;
    return len < 0 ? NULL : text;
}

/* The compiler checks arguments against the format, which is the parameter with this number. */
#define PREFORK_PRINTF_(at) __attribute__((__format__(__printf__, at, at + 1)))

static inline int prefork_response_printf(prefork_response *res, const char *format, ...) PREFORK_PRINTF_(2);
static inline ptrdiff_t prefork_conn_printf(prefork_conn *conn, const char *format, ...) PREFORK_PRINTF_(2);

/**
 * Adds a text to the body as `prefork_response_write()` does, formatted as by printf(3). It may be called several
 * times; set the status and header fields before.
 *
 * Returns as `prefork_response_write()`; PREFORK_INVALID if the format or an argument is invalid, or there is no
 * memory.
 * Process: worker.
 * Pointers: Borrows `res`, `format`, which is NUL-terminated, and the arguments until return.
 */
static inline int prefork_response_printf(prefork_response *res, const char *format, ...)
{
    char buffer[1024], *text;
    va_list arguments;
    size_t size;
    int status = PREFORK_INVALID;

    if (!res || !format)
        return PREFORK_NULL;
    va_start(arguments, format);
    text = prefork_format_(buffer, sizeof buffer, &size, format, arguments);
    va_end(arguments);
    if (text)
        status = prefork_response_write(res, text, size);
    if (text != buffer)
        free(text);
    return status;
}

/**
 * Writes a text as `prefork_conn_write()` does, formatted as by printf(3).
 *
 * Returns as `prefork_conn_write()`; PREFORK_INVALID if the format or an argument is invalid, or there is no memory.
 * Process: worker.
 * Pointers: Borrows `conn`, `format`, which is NUL-terminated, and the arguments until return.
 */
static inline ptrdiff_t prefork_conn_printf(prefork_conn *conn, const char *format, ...)
{
    char buffer[1024], *text;
    va_list arguments;
    size_t size;
    ptrdiff_t status = PREFORK_INVALID;

    if (!conn || !format)
        return PREFORK_NULL;
    va_start(arguments, format);
    text = prefork_format_(buffer, sizeof buffer, &size, format, arguments);
    va_end(arguments);
    if (text)
        status = prefork_conn_write(conn, text, size);
    if (text != buffer)
        free(text);
    return status;
}

/* Makes a symbol of a module visible to the program that loads it, whatever -fvisibility says. */
#define PREFORK_EXPORT __attribute__((visibility("default")))

/**
 * Defines the one symbol of a module, `prefork_module`. Use it once, at file scope, without a semicolon.
 *
 *     PREFORK_MODULE(.on_request = hello)
 *     PREFORK_MODULE(.worker_start = start, .on_data = data, .on_close = close)
 *
 * It is written the same way in C99 and in C++11, which has no designated initialisers: there each
 * `.member = function` is an assignment that runs when the module is loaded.
 */
#ifndef __cplusplus
#define PREFORK_MODULE(...)                                                                                \
    extern PREFORK_EXPORT const struct prefork_module prefork_module;                                      \
    const struct prefork_module prefork_module = {.size = sizeof(struct prefork_module),                   \
                                                  .abi_major = PREFORK_ABI_MAJOR,                          \
                                                  .abi_minor = PREFORK_ABI_MINOR,                          \
                                                  __VA_ARGS__};
#else
#define PREFORK_MODULE(...)                                                                                \
    extern "C" {                                                                                           \
    extern PREFORK_EXPORT const struct prefork_module prefork_module;                                      \
    }                                                                                                      \
    static struct prefork_module prefork_module_make()                                                     \
    {                                                                                                      \
        struct prefork_module m = prefork_module_init();                                                   \
        PREFORK_SET_(__VA_ARGS__)                                                                          \
        return m;                                                                                          \
    }                                                                                                      \
    const struct prefork_module prefork_module = prefork_module_make();
#define PREFORK_SET_(...)                                                                                  \
    PREFORK_PICK_(__VA_ARGS__, PREFORK_18_, PREFORK_17_, PREFORK_16_, PREFORK_15_, PREFORK_14_,            \
                  PREFORK_13_, PREFORK_12_, PREFORK_11_, PREFORK_10_, PREFORK_9_, PREFORK_8_, PREFORK_7_,  \
                  PREFORK_6_, PREFORK_5_, PREFORK_4_, PREFORK_3_, PREFORK_2_, PREFORK_1_,                  \
                  none)(__VA_ARGS__)
#define PREFORK_PICK_(_1, _2, _3, _4, _5, _6, _7, _8, _9, _10, _11, _12, _13, _14, _15, _16, _17, _18,     \
                      macro, ...) macro
#define PREFORK_1_(a) m a;
#define PREFORK_2_(a, ...) m a; PREFORK_1_(__VA_ARGS__)
#define PREFORK_3_(a, ...) m a; PREFORK_2_(__VA_ARGS__)
#define PREFORK_4_(a, ...) m a; PREFORK_3_(__VA_ARGS__)
#define PREFORK_5_(a, ...) m a; PREFORK_4_(__VA_ARGS__)
#define PREFORK_6_(a, ...) m a; PREFORK_5_(__VA_ARGS__)
#define PREFORK_7_(a, ...) m a; PREFORK_6_(__VA_ARGS__)
#define PREFORK_8_(a, ...) m a; PREFORK_7_(__VA_ARGS__)
#define PREFORK_9_(a, ...) m a; PREFORK_8_(__VA_ARGS__)
#define PREFORK_10_(a, ...) m a; PREFORK_9_(__VA_ARGS__)
#define PREFORK_11_(a, ...) m a; PREFORK_10_(__VA_ARGS__)
#define PREFORK_12_(a, ...) m a; PREFORK_11_(__VA_ARGS__)
#define PREFORK_13_(a, ...) m a; PREFORK_12_(__VA_ARGS__)
#define PREFORK_14_(a, ...) m a; PREFORK_13_(__VA_ARGS__)
#define PREFORK_15_(a, ...) m a; PREFORK_14_(__VA_ARGS__)
#define PREFORK_16_(a, ...) m a; PREFORK_15_(__VA_ARGS__)
#define PREFORK_17_(a, ...) m a; PREFORK_16_(__VA_ARGS__)
#define PREFORK_18_(a, ...) m a; PREFORK_17_(__VA_ARGS__)
#endif

#ifdef __cplusplus
}
#endif

#endif /* PREFORK_H */
