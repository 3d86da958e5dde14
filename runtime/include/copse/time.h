// Time: a point on the loop's monotonic clock, and Duration: the distance between two.
//
// Both are int64 nanoseconds and saturate instead of overflowing, so that the largest values mean
// "never" and arithmetic on them stays there. The wall clock is not consulted: setting it changes
// nothing. <chrono> is not included (it needs locale types on small C libraries), yet any of its
// durations converts, because all a conversion needs is ::rep and ::period.
#pragma once

#include <copse/config.h>

#include <compare>

namespace copse {

class Duration {
  public:
    constexpr Duration() = default;
    static constexpr Duration nanoseconds(int64_t n) { return Duration{n}; }

    // Seconds as LuaSocket gives them, with a fraction; rounded up; not-a-number counts as 0.
    static constexpr Duration seconds(double s) { return Duration{scaled(s, 1e9)}; }

    // From any std::chrono duration, rounded up and saturating.
    template <class D>
        requires requires { typename D::rep; D::period::num; D::period::den; }
    constexpr Duration(const D& d) : ns_{from_ratio(d.count(), D::period::num, D::period::den)} {}

    // To any std::chrono duration, truncated as duration_cast does.
    template <class D>
        requires requires { typename D::rep; D::period::num; D::period::den; }
    constexpr operator D() const {
        using Rep = typename D::rep;
        constexpr int64_t num = D::period::num, den = D::period::den;
        if constexpr (Rep(0.5) != Rep(0)) return D(Rep(ns_) * den / num / per_second);
        else if constexpr (per_second % den == 0)
            return D(Rep(ns_ / multiply(per_second / den, num)));
        else if constexpr (den % per_second == 0)
            return D(Rep(multiply(ns_, den / per_second) / num));
        else return D(Rep(double(ns_) * double(den) / double(num) / per_second));
    }

    constexpr int64_t count() const { return ns_; }  // nanoseconds

    friend constexpr bool operator==(Duration a, Duration b) { return a.ns_ == b.ns_; }
    friend constexpr auto operator<=>(Duration a, Duration b) { return a.ns_ <=> b.ns_; }
    friend constexpr Duration operator+(Duration a, Duration b) { return Duration{add(a.ns_, b.ns_)}; }
    friend constexpr Duration operator-(Duration a, Duration b) { return a + -b; }
    constexpr Duration operator-() const { return Duration{ns_ == lowest ? highest : -ns_}; }
    friend constexpr Duration operator*(Duration a, int64_t n) { return Duration{multiply(a.ns_, n)}; }
    friend constexpr Duration operator*(int64_t n, Duration a) { return a * n; }
    friend constexpr Duration operator/(Duration a, int64_t n) {
        return n == -1 ? -a : Duration{a.ns_ / n};
    }

    static constexpr int64_t highest = INT64_MAX;
    static constexpr int64_t lowest = INT64_MIN;

    // a + b, kept within the range.
    static constexpr int64_t add(int64_t a, int64_t b) {
        int64_t sum = 0;
        if (!__builtin_add_overflow(a, b, &sum)) return sum;
        return b > 0 ? highest : lowest;
    }
    static constexpr int64_t multiply(int64_t a, int64_t b) {
        int64_t product = 0;
        if (!__builtin_mul_overflow(a, b, &product)) return product;
        return (a < 0) == (b < 0) ? highest : lowest;
    }

  private:
    constexpr explicit Duration(int64_t ns) : ns_{ns} {}

    static constexpr int64_t per_second = 1000000000;

    static constexpr int64_t scaled(double value, double factor) {
        double ns = value * factor;
        if (ns != ns) return 0;
        if (ns >= 9223372036854775807.0) return highest;
        if (ns <= -9223372036854775808.0) return lowest;
        int64_t whole = int64_t(ns);
        return double(whole) < ns ? whole + 1 : whole;
    }

    // count ticks of num/den seconds each, in nanoseconds.
    template <class Rep>
    static constexpr int64_t from_ratio(Rep count, int64_t num, int64_t den) {
        if constexpr (Rep(0.5) != Rep(0)) {
            return scaled(double(count), 1e9 * double(num) / double(den));
        } else {
            int64_t ticks = int64_t(count);
            if (ticks < 0 && count > Rep(0)) ticks = highest;  // an unsigned Rep
            if (per_second % den == 0) return multiply(multiply(ticks, num), per_second / den);
            // Whole seconds apart: a double holds the rest to the nanosecond.
            return add(multiply(multiply(ticks / den, num), per_second),
                       scaled(double(ticks % den), 1e9 * double(num) / double(den)));
        }
    }

    int64_t ns_ = 0;
};

inline constexpr Duration never = Duration::nanoseconds(Duration::highest);

class Time {
  public:
    constexpr Time() = default;
    static constexpr Time at(int64_t ns) { Time t; t.ns_ = ns; return t; }
    static constexpr Time never() { return at(Duration::highest); }

    constexpr int64_t count() const { return ns_; }  // nanoseconds since an unspecified start

    friend constexpr bool operator==(Time a, Time b) { return a.ns_ == b.ns_; }
    friend constexpr auto operator<=>(Time a, Time b) { return a.ns_ <=> b.ns_; }
    friend constexpr Time operator+(Time t, Duration d) { return at(Duration::add(t.ns_, d.count())); }
    friend constexpr Time operator-(Time t, Duration d) { return t + -d; }
    friend constexpr Duration operator-(Time a, Time b) {
        return Duration::nanoseconds(a.ns_) - Duration::nanoseconds(b.ns_);
    }

  private:
    int64_t ns_ = 0;
};

// The loop's clock; monotonic; virtual under simulation. Anyone may call it; does not park.
// Answers to copas.gettime, which reads the wall clock and breaks when that is set.
COPSE_API Time now();

// 64 random bits: seeded from the kernel, or from the seed under simulation. Not for secrets.
COPSE_API uint64_t random();

// A scope: every parking call of this thread inside it fails with Error::timeout once it is over.
// Scopes nest and the nearest end wins. Lives on the stack of the thread that made it. Outside a
// thread it only keeps time. Answers to copas.timeout.
class Timeout {
  public:
    COPSE_API explicit Timeout(Duration length);
    COPSE_API ~Timeout();
    Timeout(const Timeout&) = delete;
    Timeout& operator=(const Timeout&) = delete;

    COPSE_API bool expired() const;
    COPSE_API Duration left() const;  // 0 when it is over

  private:
    Time end_;
    Time outer_;  // the end that held before this scope
};

namespace detail {
// n units of so many nanoseconds: whole ones saturate, a fraction is rounded to the nearest.
constexpr Duration units(unsigned long long n, int64_t unit) {
    return unit * Duration::nanoseconds(n > INT64_MAX ? Duration::highest : int64_t(n));
}
constexpr Duration units(long double n, double unit) {
    double ns = double(n) * unit + 0.5;
    return ns < 9223372036854775807.0 ? Duration::nanoseconds(int64_t(ns)) : never;
}
}  // namespace detail

inline namespace literals {
constexpr Duration operator""_ns(unsigned long long n) { return detail::units(n, 1); }
constexpr Duration operator""_us(unsigned long long n) { return detail::units(n, 1000); }
constexpr Duration operator""_ms(unsigned long long n) { return detail::units(n, 1000000); }
constexpr Duration operator""_s(unsigned long long n) { return detail::units(n, 1000000000); }
constexpr Duration operator""_min(unsigned long long n) { return detail::units(n, 60000000000); }
constexpr Duration operator""_us(long double n) { return detail::units(n, 1e3); }
constexpr Duration operator""_ms(long double n) { return detail::units(n, 1e6); }
constexpr Duration operator""_s(long double n) { return detail::units(n, 1e9); }
}  // namespace literals

}  // namespace copse
