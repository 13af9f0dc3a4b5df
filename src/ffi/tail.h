
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
