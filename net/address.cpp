#include <copse/address.h>

#include "runtime/text.h"

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

namespace copse {

namespace {

const sockaddr_in& inet(const Address& a) { return *reinterpret_cast<const sockaddr_in*>(a.raw()); }
const sockaddr_in6& inet6(const Address& a) {
    return *reinterpret_cast<const sockaddr_in6*>(a.raw());
}
const sockaddr_un& unix_path(const Address& a) {
    return *reinterpret_cast<const sockaddr_un*>(a.raw());
}

// Not substr and starts_with, which name an exception where nothing is optimised.
std::string_view rest(std::string_view text, size_t from) {
    return {text.data() + from, text.size() - from};
}
bool starts_with(std::string_view text, std::string_view start) {
    return text.size() >= start.size() && memcmp(text.data(), start.data(), start.size()) == 0;
}

constexpr size_t path_offset = offsetof(sockaddr_un, sun_path);

Result<Address> unix_address(std::string_view path) {
    Address made;
    auto& raw = *reinterpret_cast<sockaddr_un*>(made.raw());
    if (path.empty()) return {{}, Error::not_found};
    if (path.size() >= sizeof raw.sun_path) return {{}, Error::oversized};
    // An abstract name is written with @ and told to the kernel with a zero byte; its length counts.
    bool abstract = path[0] == '@';
    if (!abstract && path.find('\0') != path.npos) return {{}, Error::not_found};
    raw.sun_family = AF_UNIX;
    memcpy(raw.sun_path, path.data(), path.size());
    if (abstract) raw.sun_path[0] = 0;
    made.setsize(uint32_t(path_offset + path.size() + !abstract));
    return {made, {}};
}

Result<uint16_t> parse_port(std::string_view digits) {
    uint32_t port = 0;
    if (digits.empty() || digits.size() > 5) return {0, Error::not_found};
    for (char c : digits) {
        if (c < '0' || c > '9') return {0, Error::not_found};
        port = port * 10 + uint32_t(c - '0');
    }
    if (port > 65535) return {0, Error::not_found};
    return {uint16_t(port), {}};
}

// The scope behind the % of a link-local address: a number. Names of interfaces would need asking
// the kernel.
bool parse_scope(const char* digits, uint32_t& scope) {
    if (!*digits) return false;
    for (; *digits; ++digits) {
        if (*digits < '0' || *digits > '9' || scope > 400000000) return false;
        scope = scope * 10 + uint32_t(*digits - '0');
    }
    return true;
}

Result<Address> inet6_address(char* host, uint16_t port) {
    Address made;
    auto& raw = *reinterpret_cast<sockaddr_in6*>(made.raw());
    uint32_t scope = 0;
    if (char* percent = strchr(host, '%')) {
        *percent = 0;
        if (!parse_scope(percent + 1, scope)) return {{}, Error::not_found};
    }
    if (inet_pton(AF_INET6, host, &raw.sin6_addr) != 1) return {{}, Error::not_found};
    raw.sin6_family = AF_INET6;
    raw.sin6_port = htons(port);
    raw.sin6_scope_id = scope;
    made.setsize(sizeof raw);
    return {made, {}};
}

}  // namespace

Result<Address> Address::parse(std::string_view host, uint16_t port) {
    char text[64];
    if (host.size() >= sizeof text || host.find('\0') != host.npos) return {{}, Error::not_found};
    memcpy(text, host.data(), host.size());
    text[host.size()] = 0;
    if (strchr(text, ':')) return inet6_address(text, port);
    Address made;
    auto& raw = *reinterpret_cast<sockaddr_in*>(made.raw());
    if (strcmp(text, "*") == 0) raw.sin_addr.s_addr = htonl(INADDR_ANY);
    else if (strcmp(text, "localhost") == 0) raw.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else if (inet_pton(AF_INET, text, &raw.sin_addr) != 1) return {{}, Error::not_found};
    raw.sin_family = AF_INET;
    raw.sin_port = htons(port);
    made.setsize(sizeof raw);
    return {made, {}};
}

Result<Address> Address::parse(std::string_view text) {
    if (starts_with(text, "unix:")) return unix_address(rest(text, 5));
    size_t colon = text.rfind(':');
    if (colon == text.npos) return {{}, Error::not_found};
    Result<uint16_t> port = parse_port(rest(text, colon + 1));
    if (!port) return {{}, port.error};
    std::string_view host{text.data(), colon};
    bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
    if (bracketed) host = {host.data() + 1, host.size() - 2};
    if (bracketed != (host.find(':') != host.npos)) return {{}, Error::not_found};
    return parse(host, *port);
}

Address::Family Address::family() const {
    if (size_ < sizeof(sa_family_t)) return Family::none;
    switch (raw()->sa_family) {
    case AF_INET: return Family::inet;
    case AF_INET6: return Family::inet6;
    case AF_UNIX: return Family::unix_path;
    default: return Family::none;
    }
}

uint16_t Address::port() const {
    if (family() == Family::inet) return ntohs(inet(*this).sin_port);
    if (family() == Family::inet6) return ntohs(inet6(*this).sin6_port);
    return 0;
}

AddressText Address::host() const {
    Text<sizeof AddressText::text> line;
    char buffer[64];
    if (family() == Family::inet) {
        line.add(inet_ntop(AF_INET, &inet(*this).sin_addr, buffer, sizeof buffer));
    } else if (family() == Family::inet6) {
        line.add(inet_ntop(AF_INET6, &inet6(*this).sin6_addr, buffer, sizeof buffer));
        if (inet6(*this).sin6_scope_id) line.add("%").add(inet6(*this).sin6_scope_id);
    } else if (family() == Family::unix_path && size_ > path_offset) {
        const char* path = unix_path(*this).sun_path;
        size_t size = size_ - path_offset;
        if (path[0]) line.add(path, strnlen(path, size));
        else line.add("@").add(path + 1, size - 1);
    }
    AddressText out;
    memcpy(out.text, line.c_str(), line.size() + 1);
    return out;
}

AddressText Address::format() const {
    Text<sizeof AddressText::text> line;
    AddressText name = host();
    switch (family()) {
    case Family::none: break;
    case Family::inet: line.add(name.text).add(":").add(port()); break;
    case Family::inet6: line.add("[").add(name.text).add("]:").add(port()); break;
    case Family::unix_path:
        if (name.text[0]) line.add("unix:").add(name.text);
        break;
    }
    AddressText out;
    memcpy(out.text, line.c_str(), line.size() + 1);
    return out;
}

bool operator==(const Address& a, const Address& b) {
    return a.size_ == b.size_ && memcmp(a.storage_, b.storage_, a.size_) == 0;
}

}  // namespace copse
