// FITS headers (standard 4.0): keywords with values, and where the data and the next HDU lie.
//
// No byte outside [data, data + size) is read. What decides where data lie must be right or the header is
// refused; any other value that cannot be read is kept as Malformed. margformer_fast/reference/fits_header.py
// is the same in Python, down to the messages, and the tests hold the two together.
#pragma once

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "core/error.hpp"

namespace margformer::fits {

constexpr std::size_t kBlockSize = 2880;
constexpr std::size_t kCardSize = 80;
constexpr std::int64_t kMaxAxes = 999;

// A value that cannot be read: why, and on which card.
struct Malformed {
    std::string reason;
    std::string where;
};

// Nothing (a card without a value), logical, integer, real or string.
using Value = std::variant<std::monostate, bool, std::int64_t, double, std::string, Malformed>;

struct Entry {
    std::string key;
    Value value;
    std::size_t card;  // index of the card that gave it
};

struct Header {
    std::vector<Entry> entries;  // in the order of the file, repeated keywords included
    std::string text;            // all cards, the last one END
    int bitpix = 0;
    std::vector<std::int64_t> shape;  // slowest axis first
    std::size_t data_offset = 0;
    std::size_t data_size = 0;
    std::size_t next_offset = 0;
};

namespace detail {

inline bool is_text(unsigned char byte) { return byte >= 0x20 && byte <= 0x7e; }

inline bool is_digit(char c) { return c >= '0' && c <= '9'; }

inline std::string_view strip_left(std::string_view s) {
    const auto first = s.find_first_not_of(' ');
    return first == std::string_view::npos ? std::string_view{} : s.substr(first);
}

inline std::string_view strip_right(std::string_view s) {
    const auto last = s.find_last_not_of(' ');
    return last == std::string_view::npos ? std::string_view{} : s.substr(0, last + 1);
}

inline std::size_t round_up_to_block(std::size_t size) {
    return size / kBlockSize * kBlockSize + (size % kBlockSize != 0 ? kBlockSize : 0);
}

// The cards of one header as text, and where they came from.
struct Cards {
    std::string text;
    std::size_t offset;

    std::size_t count() const { return text.size() / kCardSize; }
    std::string_view operator[](std::size_t index) const {
        return std::string_view(text).substr(index * kCardSize, kCardSize);
    }
    std::string where(std::size_t index) const {
        return "byte " + std::to_string(offset + index * kCardSize) + ", card '" +
               std::string(strip_right((*this)[index])) + "'";
    }
};

inline FormatError no_header(const Cards& cards) {
    return FormatError("this is no FITS header", cards.where(0), "SIMPLE = T or XTENSION = '...'");
}

// Collect the cards from offset up to and with END.
inline Cards read_cards(const unsigned char* data, std::size_t size, std::size_t offset) {
    Cards cards{{}, offset};
    for (std::size_t start = offset; start < size; start += kCardSize) {
        const std::size_t length = std::min(kCardSize, size - start);
        bool is_binary = false;
        for (std::size_t i = 0; i < length; ++i) {
            const unsigned char byte = data[start + i];
            is_binary = is_binary || (i < 8 && !is_text(byte));
            cards.text.push_back(is_text(byte) ? static_cast<char>(byte) : '?');
        }
        const std::string_view keyword = std::string_view(cards.text).substr(start - offset, 8);
        if (start == offset && keyword != "SIMPLE  " && keyword != "XTENSION") throw no_header(cards);
        if (is_binary) {
            throw FormatError("binary data stand where a keyword should", "byte " + std::to_string(start),
                              "a card, the last one END");
        }
        if (length < kCardSize) break;
        if (keyword == "END     ") return cards;
    }
    throw FormatError("the header is cut short: it has no END", "byte " + std::to_string(offset));
}

// The number of leading characters of s that are digits.
inline std::size_t count_digits(std::string_view s) {
    std::size_t n = 0;
    while (n < s.size() && is_digit(s[n])) ++n;
    return n;
}

inline Malformed no_value(std::string_view token) {
    return {"'" + std::string(token) + "' is no FITS value", ""};
}

// A real number: digits with an optional point, and an optional exponent with E or D.
inline Value parse_real(std::string_view token) {
    std::string_view rest = token;
    const bool negative = rest[0] == '-';
    if (rest[0] == '+' || rest[0] == '-') rest.remove_prefix(1);
    const std::size_t whole = count_digits(rest);
    std::size_t fraction = 0;
    std::size_t mantissa = whole;
    if (mantissa < rest.size() && rest[mantissa] == '.') {
        fraction = count_digits(rest.substr(mantissa + 1));
        mantissa += 1 + fraction;
    }
    if (whole + fraction == 0) return no_value(token);
    std::string number(rest);
    if (mantissa < rest.size()) {
        if (std::string_view("EeDd").find(rest[mantissa]) == std::string_view::npos) return no_value(token);
        number[mantissa] = 'e';
        std::string_view exponent = rest.substr(mantissa + 1);
        if (!exponent.empty() && (exponent[0] == '+' || exponent[0] == '-')) exponent.remove_prefix(1);
        if (exponent.empty() || count_digits(exponent) != exponent.size()) return no_value(token);
    }
    double value = 0.0;
    if (rest.substr(0, mantissa).find_first_of("123456789") != std::string_view::npos) {
        const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
        if (result.ec != std::errc{} || value == 0.0 || std::isinf(value)) {
            return Malformed{"'" + std::string(token) + "' is beyond the range of a double", ""};
        }
    }
    return negative ? -value : value;
}

// A logical, an integer or a real; nothing if there is nothing.
inline Value parse_word(std::string_view token) {
    if (token.empty()) return std::monostate{};
    if (token == "T" || token == "F") return token == "T";
    const bool has_sign = token[0] == '+' || token[0] == '-';
    const std::string_view digits = token.substr(has_sign ? 1 : 0);
    if (!digits.empty() && count_digits(digits) == digits.size()) {
        const std::string_view number = token[0] == '+' ? digits : token;
        std::int64_t value = 0;
        const auto result = std::from_chars(number.data(), number.data() + number.size(), value);
        if (result.ec == std::errc{}) return value;
    }
    return parse_real(token);
}

// What follows the value indicator of a card, up to its comment.
inline Value parse_value(std::string_view field) {
    field = strip_left(field);
    Value value;
    if (!field.empty() && field[0] == '\'') {
        std::string content;
        std::size_t i = 1;
        for (;; ++i) {
            if (i >= field.size()) return Malformed{"the string is not closed", ""};
            if (field[i] == '\'') {
                if (i + 1 >= field.size() || field[i + 1] != '\'') break;
                ++i;
            }
            content.push_back(field[i]);
        }
        field.remove_prefix(i + 1);
        value = std::string(strip_right(content));
    } else {
        const std::size_t length = field.find_first_of(" /");
        value = parse_word(field.substr(0, length));
        field.remove_prefix(length == std::string_view::npos ? field.size() : length);
    }
    field = strip_left(field);
    if (!field.empty() && field[0] != '/') return Malformed{"text follows the value", ""};
    return value;
}

// Whether a value is a string that the next card may continue.
inline bool may_continue(const Value& value) {
    const auto* string = std::get_if<std::string>(&value);
    return string != nullptr && !string->empty() && string->back() == '&';
}

// The words of s with one space between them.
inline std::string join_words(std::string_view s) {
    std::string joined;
    for (const char c : s) {
        if (c != ' ') {
            joined.push_back(c);
        } else if (!joined.empty() && joined.back() != ' ') {
            joined.push_back(' ');
        }
    }
    return std::string(strip_right(joined));
}

// Every keyword that has a value, long strings put together.
inline std::vector<Entry> read_entries(const Cards& cards) {
    std::vector<Entry> entries;
    bool continues = false;  // whether a CONTINUE card would belong to the last entry
    for (std::size_t index = 0; index < cards.count(); ++index) {
        const std::string_view card = cards[index];
        bool is_value = card.substr(8, 2) == "= ";
        std::string_view field = card.substr(10);
        std::string key(strip_right(card.substr(0, 8)));
        if (key == "CONTINUE" && !is_value) {
            if (continues) {
                Value part = parse_value(card.substr(8));
                Value& whole = entries.back().value;
                continues = may_continue(part);
                if (const auto* string = std::get_if<std::string>(&part)) {
                    std::get<std::string>(whole).pop_back();
                    std::get<std::string>(whole) += *string;
                } else {
                    whole = Malformed{"CONTINUE carries no string", cards.where(index)};
                }
            }
            continue;
        }
        if (key == "HIERARCH" && !is_value) {
            const std::string_view rest = card.substr(8);
            const std::size_t equals = rest.find('=');
            is_value = equals != std::string_view::npos;
            if (is_value) {
                key = join_words(rest.substr(0, equals));
                field = rest.substr(equals + 1);
            }
        }
        continues = false;
        if (!is_value || key.empty() || key == "COMMENT" || key == "HISTORY") continue;
        Value value = parse_value(field);
        if (auto* malformed = std::get_if<Malformed>(&value)) malformed->where = cards.where(index);
        continues = may_continue(value);
        entries.push_back({std::move(key), std::move(value), index});
    }
    return entries;
}

// The keywords that say where data lie; each must be right.
class Structure {
  public:
    Structure(const std::vector<Entry>& entries, const Cards& cards) : cards_(cards) {
        for (const Entry& entry : entries) first_.emplace(entry.key, &entry);
    }

    const Entry* find(const std::string& key) const {
        const auto found = first_.find(key);
        return found == first_.end() ? nullptr : found->second;
    }

    FormatError error(const std::string& key, const std::string& what,
                      const std::string& expected = "") const {
        const Entry* entry = find(key);
        return FormatError(key + " " + what, cards_.where(entry != nullptr ? entry->card : 0), expected);
    }

    std::int64_t integer(const std::string& key) const {
        const Entry* entry = find(key);
        if (entry == nullptr) throw error(key, "is missing", "an integer");
        const auto* value = std::get_if<std::int64_t>(&entry->value);
        if (value == nullptr) throw error(key, "is no integer", "an integer");
        return *value;
    }

    std::int64_t integer(const std::string& key, std::int64_t when_missing) const {
        return find(key) == nullptr ? when_missing : integer(key);
    }

    // Product and sum of numbers that are not negative, refused beyond 64 bits.
    std::int64_t multiply(const std::string& key, std::int64_t a, std::int64_t b) const {
        if (b != 0 && a > kMax / b) throw too_large(key);
        return a * b;
    }
    std::int64_t add(const std::string& key, std::int64_t a, std::int64_t b) const {
        if (a > kMax - b) throw too_large(key);
        return a + b;
    }

  private:
    static constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();

    FormatError too_large(const std::string& key) const {
        return error(key, "makes the data larger than any file");
    }

    const Cards& cards_;
    std::unordered_map<std::string_view, const Entry*> first_;
};

// Refuse a header that does not begin as one.
inline void check_first(const std::vector<Entry>& entries, const Cards& cards) {
    if (entries.empty() || entries[0].card != 0) throw no_header(cards);
    const Value& value = entries[0].value;
    const auto* simple = std::get_if<bool>(&value);
    const bool is_primary = cards[0].substr(0, 6) == "SIMPLE";
    if (!(is_primary ? simple != nullptr && *simple : std::holds_alternative<std::string>(value))) {
        throw no_header(cards);
    }
}

// Set what depends on BITPIX, the axes and the groups; return the size of the data.
inline std::int64_t read_structure(const Structure& structure, bool is_extension, Header& header) {
    const std::int64_t bitpix = structure.integer("BITPIX");
    if (bitpix != 8 && bitpix != 16 && bitpix != 32 && bitpix != 64 && bitpix != -32 && bitpix != -64) {
        throw structure.error("BITPIX", "is no FITS pixel type", "one of 8, 16, 32, 64, -32, -64");
    }
    header.bitpix = static_cast<int>(bitpix);
    const std::int64_t pixel_size = (bitpix < 0 ? -bitpix : bitpix) / 8;

    const std::int64_t num_axes = structure.integer("NAXIS");
    if (num_axes < 0 || num_axes > kMaxAxes) {
        throw structure.error("NAXIS", "is out of range", "0 to " + std::to_string(kMaxAxes));
    }
    std::int64_t size = num_axes > 0 ? 1 : 0;
    bool is_empty = false;
    for (std::int64_t axis = 1; axis <= num_axes; ++axis) {
        const std::string key = "NAXIS" + std::to_string(axis);
        const std::int64_t length = structure.integer(key);
        if (length < 0) throw structure.error(key, "is out of range", "0 or more");
        is_empty = is_empty || length == 0;
        // An axis of length 0 makes the data empty, yet the others must be sane: NumPy multiplies them, too.
        size = structure.multiply(key, size, length > 0 ? length : 1);
        header.shape.insert(header.shape.begin(), length);
    }
    structure.multiply("BITPIX", size, pixel_size);
    if (is_empty) size = 0;
    if (is_extension) {
        const std::int64_t parameters = structure.integer("PCOUNT", 0);
        const std::int64_t groups = structure.integer("GCOUNT", 1);
        if (parameters < 0) throw structure.error("PCOUNT", "is out of range", "0 or more");
        if (groups < 1) throw structure.error("GCOUNT", "is out of range", "1 or more");
        size = structure.multiply("GCOUNT", structure.add("PCOUNT", size, parameters), groups);
    } else if (const Entry* random_groups = structure.find("GROUPS")) {
        const auto* on = std::get_if<bool>(&random_groups->value);
        if (on != nullptr && *on && !header.shape.empty() && header.shape.back() == 0) {
            throw structure.error("GROUPS", "announces random groups, which are not read");
        }
    }
    return structure.multiply("BITPIX", size, pixel_size);
}

}  // namespace detail

// Read the header that begins at byte `begin` of `size` bytes.
inline Header parse_header(const unsigned char* data, std::size_t size, std::int64_t begin) {
    if (begin < 0 || static_cast<std::uint64_t>(begin) >= size) {
        throw FormatError("no header begins here", "byte " + std::to_string(begin),
                          "less than " + std::to_string(size) + ", the end");
    }
    const auto offset = static_cast<std::size_t>(begin);
    detail::Cards cards = detail::read_cards(data, size, offset);
    Header header;
    header.entries = detail::read_entries(cards);
    detail::check_first(header.entries, cards);
    const bool is_extension = cards[0].substr(0, 8) == "XTENSION";
    const detail::Structure structure(header.entries, cards);
    header.data_size = static_cast<std::size_t>(detail::read_structure(structure, is_extension, header));

    const std::size_t header_size = detail::round_up_to_block(cards.text.size());
    if (header_size > size - offset) {
        throw FormatError(
            "the header is cut short: its last block ends at byte " + std::to_string(offset + header_size),
            "byte " + std::to_string(offset), "at most " + std::to_string(size) + ", the end");
    }
    header.data_offset = offset + header_size;
    const std::size_t available = size - header.data_offset;
    if (header.data_size > available) {
        throw FormatError("the data are cut short: " + std::to_string(available) + " bytes",
                          "byte " + std::to_string(header.data_offset),
                          std::to_string(header.data_size) + ", as the header promises");
    }
    header.next_offset =
        header.data_offset + std::min(available, detail::round_up_to_block(header.data_size));
    header.text = std::move(cards.text);
    return header;
}

}  // namespace margformer::fits
