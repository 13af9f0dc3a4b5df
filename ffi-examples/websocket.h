/* WebSocket (RFC 6455), the server's side, for streams of prefork: one file, to be copied. websocket.c and chat.c use it.
 *
 * It does: the handshake; fragments, control frames between them, masks; UTF-8, as the bytes arrive; a limit of the
 * message (1009); close codes, the close of either side; pings, and the end of clients that do not answer; clients that
 * read too slowly, of whom nothing more is read until they have taken what was sent.
 *
 * When its worker drains, for instance in a reload, a connection goes to another worker in the middle of whatever was sent,
 * and its client sees nothing. One whose message so far is larger than the setting max-state stays until the message is
 * whole. When the server stops, and if what you have of your own of it cannot go, it is closed with 1001.
 *
 * It does not: extensions (permessage-deflate is not negotiated), the choice of a subprotocol, the check of Origin, TLS.
 * The last three are yours: see websocket_accept(). What you send as text must be UTF-8.
 *
 * What is sent is always a whole frame in one write, so frames sent here and frames published to topics do not mix. A
 * message sent must fit into the setting max-pending.
 */
#ifndef WEBSOCKET_H
#define WEBSOCKET_H

#include <prefork.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { WEBSOCKET_MORE = 0, WEBSOCKET_TEXT = 1, WEBSOCKET_BINARY = 2, WEBSOCKET_CLOSE = 8, WEBSOCKET_PING = 9, WEBSOCKET_PONG = 10 };

/* Close codes (RFC 6455 section 7.4.1) that a server sends. */
enum {
    WEBSOCKET_NORMAL = 1000,
    WEBSOCKET_GOING_AWAY = 1001,
    WEBSOCKET_PROTOCOL = 1002,
    WEBSOCKET_NOT_UTF8 = 1007,
    WEBSOCKET_POLICY = 1008,
    WEBSOCKET_TOO_BIG = 1009,
    WEBSOCKET_FAILURE = 1011
};

/* What a worker does with its WebSocket connections. on_message must be set, others may be NULL. */
struct websocket_handler {
    /* A message: WEBSOCKET_TEXT (which is UTF-8) or WEBSOCKET_BINARY. The bytes are lent until it returns. */
    void (*on_message)(prefork_conn *conn, int type, const void *data, size_t size, void *state);
    void (*on_open)(prefork_conn *conn, void *state);
    /* There is room again after websocket_send() has returned PREFORK_FULL. */
    void (*on_writable)(prefork_conn *conn, void *state);
    /* The connection is over. */
    void (*on_close)(prefork_conn *conn, void *state);
    /* The most bytes of a message, of all its fragments together. */
    size_t max_message;
    /* A client is pinged each time this many milliseconds have passed, and dropped if it has sent nothing until the
     * next time. 0: never. At a change of the worker the time may be a quarter longer or shorter. */
    uint64_t ping_ms;
    /* What goes to another worker of your own (websocket.user): this many bytes, of memory of malloc() without pointers
     * in it; and the version of what is in it. A worker with another size or version refuses it. */
    size_t user_size;
    uint32_t version;
    /* If that is not enough: writes what you need there into `buffer`, frees what your on_takeover has set (what
     * prefork_response_set_user() was given is released by prefork), and returns the bytes used. More than `room` (the
     * setting max-state) or negative: nothing was freed; and it stays, or is closed with 1001. If this is NULL and
     * user_size is 0, a connection with a user is closed. on_close is not called if it goes. */
    ptrdiff_t (*on_handover)(prefork_conn *conn, void *buffer, size_t room, void *state);
    /* It has come from another worker, which may run another version of this code: sets websocket.user. Returns 0; or
     * another number if it cannot, and then it goes back. on_open is not called. */
    int (*on_takeover)(prefork_conn *conn, uint32_t version, const void *data, size_t size, void *state);
};

/* What goes to another worker of a connection, in front of the message so far, the held frame, the close frame, and what
 * your on_handover writes. Both workers are on one machine. */
enum { WEBSOCKET_STATE = 1 };
struct websocket_state {
    /* WEBSOCKET_STATE: a change of this structure or of what its members mean is another version. */
    uint32_t version;
    uint32_t user_version;
    uint32_t utf8;
    uint32_t ticks;
    uint8_t type, in_frame, is_last, was_refused, is_over, is_silent;
    unsigned char mask[4];
    uint8_t masked;
    uint64_t left, size, held_size, close_size;
};

/* A connection: what prefork_conn_user() points to. */
struct websocket {
    /* The message in progress: its type (0: none), and what has arrived of it. */
    int type;
    unsigned char *message;
    size_t size, room;
    uint32_t utf8;
    /* The frame of it in progress. */
    int in_frame, is_last;
    uint64_t left;
    unsigned char mask[4];
    unsigned masked;
    /* A frame that prefork has no room for yet; while there is one, nothing is read. */
    unsigned char *held;
    size_t held_size;
    /* PREFORK_FULL was returned. */
    int was_refused;
    /* The close frame that follows what is held. */
    unsigned char *close;
    size_t close_size;
    /* A close was sent, or waits its turn: nothing may follow. */
    int is_over;
    /* A ping was sent, and nothing has come since. */
    int is_silent;
    /* The quarters of ping_ms that have passed since. */
    unsigned ticks;
    /* It was too large to go to another worker, and goes as soon as it is not. */
    int is_late;
    /* Your own: at first what prefork_response_set_user() was given in the handshake; or what has come from another
     * worker, which is freed here. */
    void *user;
    int owns_user;
};

/* Of the one worker that a process is. */
static const struct websocket_handler *websocket_handler;
static int websocket_is_draining;

static struct websocket *websocket_of(prefork_conn *conn)
{
    return (struct websocket *)prefork_conn_user(conn);
}

/* SENDING */

/* Writes the head of a frame of a server, which has no mask. Returns its size, at most 10. */
static inline size_t websocket_head(unsigned char *head, int type, size_t size)
{
    size_t bytes = size < 126 ? 0 : size < 65536 ? 2 : 8, i;

    head[0] = (unsigned char)(0x80 | type);
    head[1] = (unsigned char)(bytes == 0 ? size : bytes == 2 ? 126 : 127);
    for (i = 0; i < bytes; i++)
        head[2 + i] = (unsigned char)((uint64_t)size >> 8 * (bytes - 1 - i));
    return 2 + bytes;
}

/* A whole frame, to be freed; NULL if there is no memory. */
static inline unsigned char *websocket_frame(int type, const void *data, size_t size, size_t *frame_size)
{
    unsigned char head[10], *frame;
    size_t head_size = websocket_head(head, type, size);

    frame = (unsigned char *)malloc(head_size + size);
    if (frame) {
        memcpy(frame, head, head_size);
        if (size)
            memcpy(frame + head_size, data, size);
        *frame_size = head_size + size;
    }
    return frame;
}

/* Sends a message. Returns PREFORK_OK, also if it is held until there is room; PREFORK_FULL: one is held already, and
 * on_writable will be called; PREFORK_TOO_LARGE: it never fits (max-pending); PREFORK_GONE: the connection has ended, or is
 * about to. In on_message, the first is never PREFORK_FULL. */
static inline int websocket_send(prefork_conn *conn, int type, const void *data, size_t size)
{
    struct websocket *ws = websocket_of(conn);
    unsigned char *frame;
    size_t frame_size;
    ptrdiff_t written;

    if (!ws || ws->is_over)
        return PREFORK_GONE;
    if (ws->held) {
        ws->was_refused = 1;
        return PREFORK_FULL;
    }
    frame = websocket_frame(type, data, size, &frame_size);
    if (!frame)
        return PREFORK_SYSTEM;
    written = prefork_conn_write(conn, frame, frame_size);
    if (written == PREFORK_FULL) {
        ws->held = frame;
        ws->held_size = frame_size;
        return PREFORK_OK;
    }
    free(frame);
    return written < 0 ? (int)written : PREFORK_OK;
}

/* Publishes a message to a topic of prefork, as one frame. Returns as prefork_publish(). */
static inline int websocket_publish(prefork_worker *worker, const char *topic, int type, const void *data, size_t size)
{
    size_t frame_size;
    unsigned char *frame = websocket_frame(type, data, size, &frame_size);
    int status = frame ? prefork_publish(worker, topic, frame, frame_size) : PREFORK_SYSTEM;

    free(frame);
    return status;
}

/* Sends a close frame and ends the connection: nothing is sent after it, published or not, and what the client sends is
 * dropped until it has closed too. 0 for a close without a code. `reason` is at most 123 bytes of UTF-8. */
static inline void websocket_close(prefork_conn *conn, unsigned code, const char *reason)
{
    struct websocket *ws = websocket_of(conn);
    unsigned char body[125] = {(unsigned char)(code >> 8), (unsigned char)code};
    size_t size = strlen(reason);

    if (!ws || ws->is_over)
        return;
    size = size > 123 ? 123 : size;
    memcpy(body + 2, reason, size);
    size = code ? 2 + size : 0;
    if (ws->held)
        ws->close = websocket_frame(WEBSOCKET_CLOSE, body, size, &ws->close_size);
    else
        websocket_send(conn, WEBSOCKET_CLOSE, body, size);
    ws->is_over = 1;
    /* What is held waits its turn, and the end follows it. */
    if (!ws->held)
        prefork_conn_close(conn);
}

/* RECEIVING */

/* Goes on in UTF-8 (RFC 3629), one byte: `state` is 0 between two characters. Returns 0 if the byte cannot follow.
 * The state has how many bytes the character lacks, and the range that the next one must be in. */
static inline int websocket_utf8(uint32_t *state, unsigned char byte)
{
    uint32_t lacks = *state >> 16, low = *state >> 8 & 0xff, high = *state & 0xff;

    if (lacks == 0) {
        if (byte < 0x80)
            return 1;
        if (byte < 0xc2 || byte > 0xf4)
            return 0;
        lacks = byte < 0xe0 ? 1 : byte < 0xf0 ? 2 : 3;
        /* No overlong forms, no surrogates, nothing beyond U+10FFFF. */
        low = byte == 0xe0 ? 0xa0 : byte == 0xf0 ? 0x90 : 0x80;
        high = byte == 0xed ? 0x9f : byte == 0xf4 ? 0x8f : 0xbf;
    } else {
        if (byte < low || byte > high)
            return 0;
        lacks--;
        low = 0x80;
        high = 0xbf;
    }
    *state = lacks ? lacks << 16 | low << 8 | high : 0;
    return 1;
}

/* True if a client may send this close code (RFC 6455 section 7.4, and those registered since). */
static inline int websocket_is_code(unsigned code)
{
    return (code >= 1000 && code <= 1014 && code != 1004 && code != 1005 && code != 1006) ||
           (code >= 3000 && code <= 4999);
}

/* A whole control frame. Returns 0, or a close code. */
static inline unsigned websocket_control(prefork_conn *conn, int type, const unsigned char *data, size_t size)
{
    unsigned code = size >= 2 ? (unsigned)data[0] << 8 | data[1] : 0;
    uint32_t utf8 = 0;
    size_t i;

    if (type == WEBSOCKET_PING)
        websocket_send(conn, WEBSOCKET_PONG, data, size);
    if (type != WEBSOCKET_CLOSE)
        return 0;
    if (size == 1 || (size >= 2 && !websocket_is_code(code)))
        return WEBSOCKET_PROTOCOL;
    for (i = 2; i < size; i++)
        if (!websocket_utf8(&utf8, data[i]))
            return WEBSOCKET_NOT_UTF8;
    if (utf8 != 0)
        return WEBSOCKET_NOT_UTF8;
    websocket_close(conn, code, "");
    return 0;
}

/* Takes what has arrived of a frame of a message. Returns 0, or a close code. */
static inline unsigned websocket_payload(prefork_conn *conn, struct websocket *ws, const unsigned char *in, size_t size,
                                         void *state)
{
    size_t i;

    if (ws->room - ws->size < size) {
        /* What has arrived counts, not what the head has promised. */
        size_t room = ws->size + size > 2 * ws->room ? ws->size + size : 2 * ws->room;
        unsigned char *grown = (unsigned char *)realloc(ws->message, room);

        if (!grown)
            return WEBSOCKET_TOO_BIG;
        ws->message = grown;
        ws->room = room;
    }
    for (i = 0; i < size; i++) {
        unsigned char byte = in[i] ^ ws->mask[ws->masked++ & 3];

        ws->message[ws->size++] = byte;
        if (ws->type == WEBSOCKET_TEXT && (byte >= 0x80 || ws->utf8) && !websocket_utf8(&ws->utf8, byte))
            return WEBSOCKET_NOT_UTF8;
    }
    ws->left -= size;
    if (ws->left > 0)
        return 0;
    ws->in_frame = 0;
    if (!ws->is_last)
        return 0;
    if (ws->utf8 != 0)
        return WEBSOCKET_NOT_UTF8;
    websocket_handler->on_message(conn, ws->type, ws->size ? ws->message : (const unsigned char *)"", ws->size, state);
    ws->type = 0;
    ws->size = 0;
    /* Quiet connections own little. */
    free(ws->message);
    ws->message = NULL;
    ws->room = 0;
    if (ws->is_late)
        prefork_conn_transfer(conn, 0);
    return 0;
}

/* Takes one step: a frame's head, a part of a message, or a control frame. `*used` is how many bytes that were, 0 if
 * more are needed. Returns 0, or the code to close with. */
static inline unsigned websocket_step(prefork_conn *conn, struct websocket *ws, const unsigned char *in, size_t size,
                                      size_t *used, void *state)
{
    size_t head, i;
    uint64_t length;
    unsigned char control[125];
    int type;

    *used = 0;
    if (ws->in_frame) {
        *used = size < ws->left ? size : (size_t)ws->left;
        return websocket_payload(conn, ws, in, *used, state);
    }
    if (size < 2)
        return 0;
    type = in[0] & 15;
    length = in[1] & 127;
    /* No extension was negotiated that could use the reserved bits; and clients mask. */
    if (in[0] & 0x70 || !(in[1] & 0x80))
        return WEBSOCKET_PROTOCOL;
    if (type >= WEBSOCKET_CLOSE ? type > WEBSOCKET_PONG || length > 125 || !(in[0] & 0x80)
                                : type > WEBSOCKET_BINARY || (type == WEBSOCKET_MORE) != (ws->type != 0))
        return WEBSOCKET_PROTOCOL;
    head = length == 126 ? 4 : length == 127 ? 10 : 2;
    if (size < head + 4)
        return 0;
    if (head > 2) {
        for (i = 2, length = 0; i < head; i++)
            length = length << 8 | in[i];
        /* The shortest form is a must. */
        if (length < (head == 4 ? 126u : 65536u) || length >> 63)
            return WEBSOCKET_PROTOCOL;
    }
    if (type >= WEBSOCKET_CLOSE) {
        if (size < head + 4 + length)
            return 0;
        for (i = 0; i < length; i++)
            control[i] = in[head + 4 + i] ^ in[head + (i & 3)];
        *used = head + 4 + (size_t)length;
        return websocket_control(conn, type, control, (size_t)length);
    }
    if (length > websocket_handler->max_message - ws->size)
        return WEBSOCKET_TOO_BIG;
    memcpy(ws->mask, in + head, 4);
    ws->masked = 0;
    ws->left = length;
    ws->in_frame = 1;
    ws->is_last = in[0] >> 7;
    if (type != WEBSOCKET_MORE) {
        ws->type = type;
        ws->utf8 = 0;
    }
    *used = head + 4;
    return length > 0 ? 0 : websocket_payload(conn, ws, in, 0, state);
}

static inline void websocket_on_data(prefork_conn *conn, void *state)
{
    struct websocket *ws = websocket_of(conn);
    size_t used = 1;

    if (!ws)
        return;
    ws->is_silent = 0;
    while (used > 0 && !ws->held && !ws->is_over) {
        prefork_slice in = prefork_conn_data(conn);

        /* Between two messages; the other worker goes on with the next one. */
        if (ws->is_late && ws->type == 0)
            break;
        unsigned code = websocket_step(conn, ws, (const unsigned char *)in.data, in.len, &used, state);

        if (code)
            websocket_close(conn, code, "");
        prefork_conn_consume(conn, used);
    }
}

/* CALLBACKS OF THE MODULE */

static inline void websocket_on_open(prefork_conn *conn, void *state)
{
    struct websocket *ws = (struct websocket *)calloc(1, sizeof *ws);

    if (!ws) {
        prefork_conn_close(conn);
        return;
    }
    ws->user = prefork_conn_user(conn);
    prefork_conn_set_user(conn, ws);
    if (websocket_handler->on_open)
        websocket_handler->on_open(conn, state);
    /* By a handshake that was in progress when the stop began. */
    if (websocket_is_draining && !prefork_worker_hands_over(prefork_worker_self()))
        websocket_close(conn, WEBSOCKET_GOING_AWAY, "");
}

/* There is room for what is held; what waited for that goes on. */
static inline void websocket_on_writable(prefork_conn *conn, void *state)
{
    struct websocket *ws = websocket_of(conn);

    if (!ws)
        return;
    if (ws->held) {
        if (prefork_conn_write(conn, ws->held, ws->held_size) == PREFORK_FULL)
            return;
        free(ws->held);
        ws->held = ws->close;
        ws->held_size = ws->close_size;
        ws->close = NULL;
        if (ws->held) {
            websocket_on_writable(conn, state);
            return;
        }
    }
    if (ws->is_over) {
        prefork_conn_close(conn);
        return;
    }
    if (ws->is_late && ws->type == 0)
        prefork_conn_transfer(conn, 0);
    if (ws->was_refused) {
        ws->was_refused = 0;
        if (websocket_handler->on_writable)
            websocket_handler->on_writable(conn, state);
    }
}

static inline void websocket_free(prefork_conn *conn)
{
    struct websocket *ws = websocket_of(conn);

    prefork_conn_set_user(conn, NULL);
    if (ws->owns_user)
        free(ws->user);
    free(ws->message);
    free(ws->held);
    free(ws->close);
    free(ws);
}

static inline void websocket_on_close(prefork_conn *conn, void *state)
{
    struct websocket *ws = websocket_of(conn);

    if (!ws)
        return;
    ws->is_over = 1;
    if (websocket_handler->on_close)
        websocket_handler->on_close(conn, state);
    websocket_free(conn);
}

/* Writes `size` bytes behind those that `*out` points behind. */
static inline void websocket_put(unsigned char **out, const void *data, size_t size)
{
    if (size)
        memcpy(*out, data, size);
    *out += size;
}

static inline ptrdiff_t websocket_on_handover(prefork_conn *conn, void *buffer, size_t room, void *state)
{
    struct websocket *ws = websocket_of(conn);
    struct websocket_state s;
    unsigned char *out = (unsigned char *)buffer;
    ptrdiff_t of_user = 0;
    size_t size;

    if (!ws)
        return -1;
    memset(&s, 0, sizeof s);
    s.version = WEBSOCKET_STATE;
    s.user_version = websocket_handler->version;
    s.utf8 = ws->utf8;
    s.ticks = ws->ticks;
    s.type = (uint8_t)ws->type;
    s.in_frame = (uint8_t)ws->in_frame;
    s.is_last = (uint8_t)ws->is_last;
    s.was_refused = (uint8_t)ws->was_refused;
    s.is_over = (uint8_t)ws->is_over;
    s.is_silent = (uint8_t)ws->is_silent;
    memcpy(s.mask, ws->mask, 4);
    s.masked = ws->masked & 3;
    s.left = ws->left;
    s.size = ws->size;
    s.held_size = ws->held ? ws->held_size : 0;
    s.close_size = ws->close ? ws->close_size : 0;
    size = sizeof s + (size_t)(s.size + s.held_size + s.close_size);
    if (size > room) {
        ws->is_late = 1;
        return -1;
    }
    ws->is_late = 0;
    if (websocket_handler->on_handover)
        of_user = websocket_handler->on_handover(conn, out + size, room - size, state);
    else if (ws->user)
        of_user = websocket_handler->user_size > 0 ? (ptrdiff_t)websocket_handler->user_size : -1;
    if (of_user < 0) {
        if (websocket_is_draining)
            websocket_close(conn, WEBSOCKET_GOING_AWAY, "");
        return -1;
    }
    /* Told by prefork. */
    if ((size_t)of_user > room - size)
        return (ptrdiff_t)size + of_user;
    if (ws->user && !websocket_handler->on_handover)
        memcpy(out + size, ws->user, (size_t)of_user);
    websocket_put(&out, &s, sizeof s);
    websocket_put(&out, ws->message, ws->size);
    websocket_put(&out, ws->held, (size_t)s.held_size);
    websocket_put(&out, ws->close, (size_t)s.close_size);
    websocket_free(conn);
    return (ptrdiff_t)size + of_user;
}

/* Takes a copy of the next `size` bytes, to be freed; NULL if there are none, or no memory, and then `*failed` is set. */
static inline unsigned char *websocket_take(const unsigned char **in, uint64_t size, int *failed)
{
    unsigned char *copy = size ? (unsigned char *)malloc((size_t)size) : NULL;

    if (copy)
        memcpy(copy, *in, (size_t)size);
    *in += size;
    *failed |= size && !copy;
    return copy;
}

static inline int websocket_on_takeover(prefork_conn *conn, uint32_t version, const void *data, size_t size, void *state)
{
    const unsigned char *in = (const unsigned char *)data, *end = in + size;
    struct websocket_state s;
    struct websocket *ws;
    int failed = 0;

    if (version != WEBSOCKET_STATE || size < sizeof s)
        return 1;
    memcpy(&s, in, sizeof s);
    in += sizeof s;
    if (s.version != WEBSOCKET_STATE || s.size + s.held_size + s.close_size > (uint64_t)(end - in))
        return 1;
    /* The limit may be lower here: then the worker that has it receives the rest of this message. */
    if (s.size + s.left > websocket_handler->max_message && s.type != 0)
        return 2;
    ws = (struct websocket *)calloc(1, sizeof *ws);
    if (!ws)
        return 3;
    ws->type = s.type;
    ws->message = websocket_take(&in, s.size, &failed);
    ws->size = ws->room = (size_t)s.size;
    ws->utf8 = s.utf8;
    ws->in_frame = s.in_frame;
    ws->is_last = s.is_last;
    ws->left = s.left;
    memcpy(ws->mask, s.mask, 4);
    ws->masked = s.masked;
    ws->held = websocket_take(&in, s.held_size, &failed);
    ws->held_size = (size_t)s.held_size;
    ws->close = websocket_take(&in, s.close_size, &failed);
    ws->close_size = (size_t)s.close_size;
    ws->was_refused = s.was_refused;
    ws->is_over = s.is_over;
    ws->is_silent = s.is_silent;
    ws->ticks = s.ticks;
    prefork_conn_set_user(conn, ws);
    if (!failed && websocket_handler->on_takeover)
        failed = websocket_handler->on_takeover(conn, s.user_version, in, (size_t)(end - in), state);
    else if (!failed && in != end && (s.user_version != websocket_handler->version ||
                                      (size_t)(end - in) != websocket_handler->user_size))
        failed = 4;
    else if (!failed) {
        ws->user = websocket_take(&in, (uint64_t)(end - in), &failed);
        ws->owns_user = 1;
    }
    if (failed)
        websocket_free(conn);
    return failed;
}

static inline int websocket_leave(prefork_conn *conn, void *arg)
{
    (void)arg;
    websocket_close(conn, WEBSOCKET_GOING_AWAY, "");
    return 0;
}

/* Those that no other worker goes on with are told to go. */
static inline void websocket_leave_all(prefork_worker *worker, void *arg)
{
    if (!prefork_worker_hands_over(worker))
        prefork_worker_each_conn(worker, websocket_leave, arg);
}

static inline void websocket_on_drain(prefork_worker *worker, void *state)
{
    (void)state;
    websocket_is_draining = 1;
    websocket_leave_all(worker, NULL);
    /* A stop may begin while this worker waits for the rest of a message. */
    prefork_timer_start(worker, 100, 100, websocket_leave_all, NULL);
}

/* For PREFORK_MODULE(.worker_start = ..., .on_request = ..., WEBSOCKET_CALLBACKS). */
#define WEBSOCKET_CALLBACKS                                                                                            \
    .on_open = websocket_on_open, .on_data = websocket_on_data, .on_writable = websocket_on_writable,                  \
    .on_close = websocket_on_close, .on_drain = websocket_on_drain, .state_version = WEBSOCKET_STATE,                  \
    .on_handover = websocket_on_handover, .on_takeover = websocket_on_takeover

static inline int websocket_ping(prefork_conn *conn, void *arg)
{
    struct websocket *ws = websocket_of(conn);

    (void)arg;
    /* Nothing is read of one that is held, so its pong is not seen; the setting write-timeout watches it. */
    if (!ws || ws->held || ws->is_over || ++ws->ticks < 4)
        return 0;
    ws->ticks = 0;
    if (ws->is_silent) {
        websocket_close(conn, WEBSOCKET_FAILURE, "no answer to a ping");
        return 0;
    }
    ws->is_silent = 1;
    websocket_send(conn, WEBSOCKET_PING, "", 0);
    return 0;
}

static inline void websocket_ping_all(prefork_worker *worker, void *arg)
{
    prefork_worker_each_conn(worker, websocket_ping, arg);
}

/* To be called in worker_start; `handler` stays yours as long as the worker lives. Returns what worker_start returns. */
static inline int websocket_start(prefork_worker *worker, const struct websocket_handler *handler)
{
    uint64_t tick = handler->ping_ms < 4 ? 1 : handler->ping_ms / 4;

    websocket_handler = handler;
    return handler->ping_ms > 0 && prefork_timer_start(worker, tick, tick, websocket_ping_all, NULL) == 0;
}

/* THE HANDSHAKE */

static inline uint32_t websocket_rotate(uint32_t word, unsigned bits)
{
    return word << bits | word >> (32 - bits);
}

/* One block of SHA-1 (RFC 3174). */
static inline void websocket_sha1(uint32_t hash[5], const unsigned char block[64])
{
    static const uint32_t keys[] = {0x5a827999, 0x6ed9eba1, 0x8f1bbcdc, 0xca62c1d6};
    uint32_t w[80], v[5];
    int i;

    for (i = 0; i < 16; i++)
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    for (; i < 80; i++)
        w[i] = websocket_rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    memcpy(v, hash, sizeof v);
    for (i = 0; i < 80; i++) {
        uint32_t f = i < 20   ? (v[1] & v[2]) | (~v[1] & v[3])
                     : i < 40 ? v[1] ^ v[2] ^ v[3]
                     : i < 60 ? (v[1] & v[2]) | (v[1] & v[3]) | (v[2] & v[3])
                              : v[1] ^ v[2] ^ v[3];
        uint32_t next = websocket_rotate(v[0], 5) + f + v[4] + keys[i / 20] + w[i];

        v[4] = v[3], v[3] = v[2], v[2] = websocket_rotate(v[1], 30), v[1] = v[0], v[0] = next;
    }
    for (i = 0; i < 5; i++)
        hash[i] += v[i];
}

static inline void websocket_base64(char *out, const unsigned char *in, size_t size)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t i;

    for (i = 0; i < size; i += 3) {
        uint32_t three = (uint32_t)in[i] << 16 | (i + 1 < size ? in[i + 1] << 8 : 0) | (i + 2 < size ? in[i + 2] : 0);

        *out++ = digits[three >> 18];
        *out++ = digits[three >> 12 & 63];
        *out++ = i + 1 < size ? digits[three >> 6 & 63] : '=';
        *out++ = i + 2 < size ? digits[three & 63] : '=';
    }
    *out = '\0';
}

/* True if it is a nonce of 16 bytes in base64: 22 digits, the last one of two bits, and "==". */
static inline int websocket_is_key(prefork_slice key)
{
    size_t i;

    if (key.len != 24 || memcmp(key.data + 22, "==", 2) != 0 || !strchr("AQgw", key.data[21]))
        return 0;
    for (i = 0; i < 22; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", key.data[i]) || !key.data[i])
            return 0;
    return 1;
}

/* Answers the handshake (RFC 6455 section 4.2) in on_request, or says why not: 400, or 426 with what is offered. Returns 1
 * if it is accepted. Before, check what is yours: the path, Origin, a cookie. Afterwards you may add
 * Sec-WebSocket-Protocol, one that the request lists, and prefork_response_set_user(), see websocket_of(). */
static inline int websocket_accept(const prefork_request *req, prefork_response *res)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    prefork_slice method = prefork_request_method(req), key = prefork_request_header(req, "Sec-WebSocket-Key");
    prefork_slice version = prefork_request_header(req, "Sec-WebSocket-Version"), name;
    uint32_t hash[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0};
    unsigned char text[128] = {0}, digest[20];
    char accept[29];
    size_t i, keys = 0;

    if (version.len != 2 || memcmp(version.data, "13", 2) != 0) {
        prefork_response_status(res, 426);
        prefork_response_header(res, "Upgrade", "websocket");
        prefork_response_header(res, "Sec-WebSocket-Version", "13");
        return 0;
    }
    for (i = 0; (name = prefork_request_header_name(req, i)).data; i++)
        keys += name.len == 17 && strncasecmp(name.data, "Sec-WebSocket-Key", 17) == 0;
    if (keys != 1 || !websocket_is_key(key) || method.len != 3 || memcmp(method.data, "GET", 3) != 0) {
        prefork_response_status(res, 400);
        return 0;
    }
    if (prefork_response_upgrade(res, "websocket") != PREFORK_OK) {
        prefork_response_status(res, 426);
        prefork_response_header(res, "Upgrade", "websocket");
        return 0;
    }
    /* 60 bytes, and the end of a message of SHA-1: a one, and the number of bits. */
    memcpy(text, key.data, 24);
    memcpy(text + 24, guid, 36);
    text[60] = 0x80;
    text[126] = 60 * 8 >> 8;
    text[127] = 60 * 8 & 0xff;
    websocket_sha1(hash, text);
    websocket_sha1(hash, text + 64);
    for (i = 0; i < 20; i++)
        digest[i] = (unsigned char)(hash[i / 4] >> 8 * (3 - i % 4));
    websocket_base64(accept, digest, sizeof digest);
    prefork_response_header(res, "Sec-WebSocket-Accept", accept);
    return 1;
}

#endif
