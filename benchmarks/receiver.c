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
#define MARK_WITHIN 96

struct client {
    int fd;
    uint32_t carried;
    uint8_t *carry;
    uint64_t messages, sequences;
    int is_open;
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

static int is_marked(struct client *client, const uint8_t *text, size_t size, uint64_t now) {
    const uint8_t *at = memchr(text, '#', size < MARK_WITHIN ? size : MARK_WITHIN), *end = text + size;
    uint64_t sequence, sent;
    if (!at) return 0;
    at = number(at + 1, end, &sequence);
    if (at == end || *at != '@') return 0;
    number(at + 1, end, &sent);
    uint64_t bin = now > sent ? (now - sent) / BIN_NS : 0;
    bins[bin < BINS ? bin : BINS - 1]++;
    client->sequences += sequence;
    counters.sequences += sequence;
    return 1;
}

static int starts(const uint8_t *text, size_t size, const char *with) {
    size_t length = strlen(with);
    return size >= length && !memcmp(text, with, length);
}

static void on_text(struct client *client, int is_compressed, const uint8_t *text, size_t size, uint64_t now) {
    if (is_compressed && size >= SHORTEST_COMPRESSED) counters.compressed++;
    else if (is_compressed || !is_marked(client, text, size, now)) {
        counters.others++;
        if (size == 1 && *text == '2') answer(client->fd, 1, "3", 1); /* Engine.IO's ping */
        if (starts(text, size, "{\"type\":\"ping\"") || starts(text, size, "{\"type\": \"ping\""))
            answer(client->fd, 1, "{\"type\":\"pong\"}", 15);
        return;
    }
    client->messages++;
    counters.messages++;
    counters.latest_ns = now;
}

/* Handles all whole frames and returns how many bytes they took. */
static size_t parse(struct client *client, const uint8_t *data, size_t size, uint64_t now) {
    size_t used = 0;
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

static void closed(struct client *client) {
    if (!client->is_open) return;
    client->is_open = 0;
    counters.closed++;
    epoll_ctl(poller, EPOLL_CTL_DEL, client->fd, NULL);
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

int receiver_add(int fd, const uint8_t *early, size_t size) {
    if (count == room) clients = realloc(clients, (room = room ? 2 * room : 1024) * sizeof *clients);
    clients[count] = (struct client){.fd = fd, .is_open = 1};
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = count};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event)) return -1;
    memcpy(buffer, early, size);
    take(&clients[count++], size, now_ns());
    return 0;
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
    }
    count = 0;
    counters.closed = 0;
}

const struct counters *receiver_counters(void) { return &counters; }
const uint32_t *receiver_bins(void) { return bins; }
