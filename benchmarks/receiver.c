/* The hot loop of the load generator: reads frames of many sockets, counts them, answers pings.
 *
 * Compiled when the benchmarks start and called through ctypes by receiver.py. A message carries
 * "#<sequence>@<time.monotonic_ns() of its sender>#" near its start; of a compressed message only its
 * arrival is counted. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>

#define BUFFER (1 << 20)
#define BINS 2000000 /* of 10 us each: 20 s */
#define BIN_NS 10000
#define EVENTS 512
#define CONTROL 0xffffffffu
#define SHORTEST_COMPRESSED 128 /* shorter ones are heartbeats */
#define MARK_WITHIN 128

struct client {
    int fd;
    uint32_t carried;
    uint8_t *carry, *then; /* what is sent once the handshake is answered */
    size_t then_size;
    uint64_t messages, sequences;
    int is_open, is_lined, is_dialling;
};

/* Mirrored by receiver.Counters. */
struct counters {
    uint64_t messages, sequences, bytes, compressed, others, pings, closed, latest_ns;
};

static struct client *clients;
static uint32_t count, room;
static int poller = -1;
static uint8_t buffer[2 * BUFFER];
static struct counters counters;
static uint64_t dialling, refused;
static uint32_t bins[BINS];

static uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A masked frame with the key 0, which leaves the payload as it is. */
static void answer(int fd, uint8_t opcode, const void *payload, size_t size) {
    uint8_t frame[131] = {0x80 | opcode, 0x80 | (uint8_t)size};
    if (size > 125) return;
    memcpy(frame + 6, payload, size);
    (void)!send(fd, frame, 6 + size, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static const uint8_t *number(const uint8_t *at, const uint8_t *end, uint64_t *value) {
    for (*value = 0; at < end && *at >= '0' && *at <= '9'; at++) *value = *value * 10 + (uint64_t)(*at - '0');
    return at;
}

/* Returns what is behind the first mark, NULL if there is none before ``end``. */
static const uint8_t *take_mark(struct client *client, const uint8_t *text, const uint8_t *end, uint64_t now) {
    const uint8_t *at = memchr(text, '#', (size_t)(end - text));
    uint64_t sequence, sent;
    if (!at) return NULL;
    at = number(at + 1, end, &sequence);
    if (at == end || *at != '@') return NULL;
    at = number(at + 1, end, &sent);
    uint64_t bin = now > sent ? (now - sent) / BIN_NS : 0;
    bins[bin < BINS ? bin : BINS - 1]++;
    client->sequences += sequence;
    counters.sequences += sequence;
    return at < end ? at + 1 : at;
}

static void arrived(struct client *client, uint64_t now) {
    client->messages++;
    counters.messages++;
    counters.latest_ns = now;
}

static int starts(const uint8_t *text, size_t size, const char *with) {
    size_t length = strlen(with);
    return size >= length && !memcmp(text, with, length);
}

/* Centrifugo joins several replies in a frame, one a line, and several messages in a reply. */
static void on_lines(struct client *client, const uint8_t *text, size_t size, uint64_t now) {
    const uint8_t *end = text + size;
    while (text < end) {
        const uint8_t *stop = memchr(text, '\n', (size_t)(end - text)), *at = text;
        if (!stop) stop = end;
        if (stop - text == 2 && starts(text, 2, "{}")) {
            counters.pings++;
            answer(client->fd, 1, "{}", 2);
        }
        while ((at = take_mark(client, at, stop, now))) arrived(client, now);
        text = stop + 1;
    }
}

static void on_text(struct client *client, int is_compressed, const uint8_t *text, size_t size, uint64_t now) {
    const uint8_t *end = text + (size < MARK_WITHIN ? size : MARK_WITHIN);
    if (is_compressed && size >= SHORTEST_COMPRESSED) counters.compressed++;
    else if (client->is_lined) { on_lines(client, text, size, now); return; }
    else if (is_compressed || !take_mark(client, text, end, now)) {
        counters.others++;
        if (size == 1 && *text == '2') answer(client->fd, 1, "3", 1); /* Engine.IO's ping */
        if (starts(text, size, "{\"type\":\"ping\"") || starts(text, size, "{\"type\": \"ping\""))
            answer(client->fd, 1, "{\"type\":\"pong\"}", 15);
        if (starts(text, size, "{\"ping\":1")) answer(client->fd, 1, "{}", 2); /* of stabilizer.v1 */
        return;
    }
    arrived(client, now);
}

static void closed(struct client *client) {
    if (!client->is_open) return;
    client->is_open = 0;
    dialling -= (uint64_t)client->is_dialling;
    client->is_dialling = 0;
    counters.closed++;
    epoll_ctl(poller, EPOLL_CTL_DEL, client->fd, NULL);
}

/* Handles the answer to a handshake, once it is whole, and returns its size. */
static size_t upgraded(struct client *client, const uint8_t *data, size_t size) {
    const uint8_t *end = memmem(data, size, "\r\n\r\n", 4);
    if (!end) return 0;
    if (!starts(data, size, "HTTP/1.1 101")) {
        refused++;
        closed(client);
        return size;
    }
    if (client->then_size) (void)!send(client->fd, client->then, client->then_size, MSG_NOSIGNAL | MSG_DONTWAIT);
    client->is_dialling = 0;
    dialling--;
    return (size_t)(end - data) + 4;
}

/* Handles all whole frames and returns how many bytes they took. */
static size_t parse(struct client *client, const uint8_t *data, size_t size, uint64_t now) {
    size_t used = client->is_dialling ? upgraded(client, data, size) : 0;
    if (client->is_dialling) return used;
    while (size - used >= 2) {
        const uint8_t *frame = data + used;
        size_t head = 2, length = frame[1] & 0x7f, left = size - used;
        if (length == 126) {
            if (left < 4) break;
            head = 4;
            length = (size_t)frame[2] << 8 | frame[3];
        } else if (length == 127) {
            if (left < 10) break;
            head = 10;
            length = 0;
            for (int i = 2; i < 10; i++) length = length << 8 | frame[i];
        }
        if (left < head + length) break;
        switch (frame[0] & 0x0f) {
        case 1: case 2: on_text(client, frame[0] & 0x40, frame + head, length, now); break;
        case 8: answer(client->fd, 8, frame + head, length); break;
        case 9: counters.pings++; answer(client->fd, 10, frame + head, length); break;
        default: break;
        }
        used += head + length;
    }
    return used;
}

static void take(struct client *client, size_t size, uint64_t now) {
    size_t used = parse(client, buffer, size, now), left = size - used;
    if (left > BUFFER) { closed(client); return; }
    if (left && (!client->carry || left > client->carried)) client->carry = realloc(client->carry, left);
    if (left) memcpy(client->carry, buffer + used, left);
    client->carried = (uint32_t)left;
}

static void readable(struct client *client) {
    if (!client->is_open) return;
    if (client->carried) memcpy(buffer, client->carry, client->carried);
    ssize_t got = recv(client->fd, buffer + client->carried, BUFFER, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) { closed(client); return; }
    counters.bytes += (uint64_t)got;
    take(client, client->carried + (size_t)got, now_ns());
}

int receiver_open(int control_fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = CONTROL};
    poller = epoll_create1(EPOLL_CLOEXEC);
    return epoll_ctl(poller, EPOLL_CTL_ADD, control_fd, &event);
}

static struct client *add(int fd) {
    if (count == room) clients = realloc(clients, (room = room ? 2 * room : 1024) * sizeof *clients);
    clients[count] = (struct client){.fd = fd, .is_open = 1};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = count};
    return epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event) ? NULL : &clients[count++];
}

int receiver_add(int fd, int is_lined, const uint8_t *early, size_t size) {
    struct client *client = add(fd);
    if (!client) return -1;
    client->is_lined = is_lined;
    memcpy(buffer, early, size);
    take(client, size, now_ns());
    return 0;
}

/* A socket that has asked for the upgrade; sends ``then`` when it has got it. */
int receiver_dial(int fd, int is_lined, const uint8_t *then, size_t size) {
    struct client *client = add(fd);
    if (!client) return -1;
    client->is_lined = is_lined;
    client->is_dialling = 1;
    dialling++;
    if (size) client->then = memcpy(malloc(size), then, client->then_size = size);
    return 0;
}

/* Reads once, after so long at most; returns how many handshakes are under way, -1 if one was refused. */
int64_t receiver_poll(int timeout_ms) {
    struct epoll_event events[EVENTS];
    int ready = epoll_wait(poller, events, EVENTS, timeout_ms);
    for (int i = 0; i < ready; i++)
        if (events[i].data.u32 != CONTROL) readable(&clients[events[i].data.u32]);
    return refused ? -1 : (int64_t)dialling;
}

/* Returns 1 when the control connection has something to say, 0 when the numbers were reached, -1 when late. */
int receiver_run(uint64_t messages, uint64_t ends, int64_t timeout_ms) {
    struct epoll_event events[EVENTS];
    uint64_t deadline = now_ns() + (uint64_t)timeout_ms * 1000000u;
    while (counters.messages < messages || counters.closed < ends) {
        int64_t left = ((int64_t)deadline - (int64_t)now_ns()) / 1000000;
        if (timeout_ms >= 0 && left <= 0) return -1;
        int ready = epoll_wait(poller, events, EVENTS, timeout_ms < 0 ? -1 : (int)left);
        int is_called = 0;
        for (int i = 0; i < ready; i++)
            if (events[i].data.u32 == CONTROL) is_called = 1;
            else readable(&clients[events[i].data.u32]);
        if (is_called) return 1;
    }
    return 0;
}

/* How many open clients have not had exactly these messages. */
uint32_t receiver_incomplete(uint64_t messages, uint64_t sequences) {
    uint32_t wrong = 0;
    for (uint32_t i = 0; i < count; i++)
        wrong += clients[i].messages != messages || (sequences && clients[i].sequences != sequences);
    return wrong;
}

void receiver_reset(void) {
    uint64_t ended = counters.closed;
    memset(&counters, 0, sizeof counters);
    memset(bins, 0, sizeof bins);
    counters.closed = ended;
    for (uint32_t i = 0; i < count; i++) clients[i].messages = clients[i].sequences = 0;
}

void receiver_clear(void) {
    for (uint32_t i = 0; i < count; i++) {
        closed(&clients[i]);
        free(clients[i].carry);
        free(clients[i].then);
    }
    count = 0;
    counters.closed = refused = 0;
}

const struct counters *receiver_counters(void) { return &counters; }
const uint32_t *receiver_bins(void) { return bins; }
