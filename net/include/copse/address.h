// Address: where a socket is: IPv4, IPv6 or UNIX (abstract ones, too).
#pragma once

#include <copse/error.h>

#include <string_view>

struct sockaddr;

namespace copse {

struct AddressText {
    char text[160] = {};
    const char* c_str() const { return text; }
    operator std::string_view() const { return text; }
};

class Address {
  public:
    enum class Family : uint8_t { none, inet, inet6, unix_path };

    constexpr Address() = default;

    // "127.0.0.1:80", "[::1]:80", "[fe80::1%2]:80", "*:80", "localhost:80", "unix:/run/x",
    // "unix:@abstract". not_found: it is none of these; oversized: a UNIX path that is too long.
    COPSE_API static Result<Address> parse(std::string_view text);

    // A literal address, "localhost" or "*" (any IPv4 address), and a port. not_found.
    COPSE_API static Result<Address> parse(std::string_view host, uint16_t port);

    // What parse() takes; "" for none and for the peer of an unnamed UNIX socket.
    COPSE_API AddressText format() const;
    COPSE_API AddressText host() const;  // without the port

    COPSE_API Family family() const;
    COPSE_API uint16_t port() const;  // 0 for UNIX

    COPSE_API friend bool operator==(const Address&, const Address&);

    // As the system calls want it, and as they give it.
    const sockaddr* raw() const { return reinterpret_cast<const sockaddr*>(storage_); }
    sockaddr* raw() { return reinterpret_cast<sockaddr*>(storage_); }
    constexpr uint32_t size() const { return size_; }
    constexpr void setsize(uint32_t size) { size_ = size < capacity ? size : capacity; }
    static constexpr uint32_t capacity = 128;

  private:
    alignas(8) unsigned char storage_[capacity] = {};
    uint32_t size_ = 0;
};

}  // namespace copse
