// Target: the header parser, on every HDU of a file, and what it promises about the headers it accepts.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <variant>

#include "bytes.hpp"
#include "check.hpp"
#include "core/error.hpp"
#include "core/fits_header.hpp"

namespace {

using margformer::FormatError;
using margformer::fits::Entry;
using margformer::fits::Header;
using margformer::fits::Malformed;
using margformer::fits::parse_header;

// What reaches Python as text; other bytes could not be decoded there.
void check_text(const std::string& text) {
    FUZZ_CHECK(std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c <= 0x7e; }));
}

void check_error(const FormatError& error) {
    FUZZ_CHECK(!error.problem.empty() && !error.where.empty());
    check_text(error.problem);
    check_text(error.where);
    check_text(error.expected);
}

void check_entry(const Entry& entry, const Header& header) {
    check_text(entry.key);
    FUZZ_CHECK(!entry.key.empty());
    FUZZ_CHECK(entry.card < header.text.size() / 80);
    if (const auto* text = std::get_if<std::string>(&entry.value)) check_text(*text);
    if (const auto* malformed = std::get_if<Malformed>(&entry.value)) {
        FUZZ_CHECK(!malformed->reason.empty() && !malformed->where.empty());
        check_text(malformed->reason);
        check_text(malformed->where);
    }
}

void check_header(const Header& header, std::size_t offset, std::size_t size) {
    FUZZ_CHECK(offset < header.data_offset && (header.data_offset - offset) % 2880 == 0);
    FUZZ_CHECK(header.data_offset <= size && header.data_size <= size - header.data_offset);
    FUZZ_CHECK(header.next_offset >= header.data_offset + header.data_size && header.next_offset <= size);
    FUZZ_CHECK(header.text.size() % 80 == 0 && header.text.size() <= header.data_offset - offset);
    FUZZ_CHECK(header.text.compare(header.text.size() - 80, 8, "END     ") == 0);
    check_text(header.text);
    for (const Entry& entry : header.entries) check_entry(entry, header);
    FUZZ_CHECK(std::is_sorted(header.entries.begin(), header.entries.end(),
                              [](const Entry& a, const Entry& b) { return a.card < b.card; }));

    // The axes alone fit into the data, which fit into the file.
    const std::size_t pixel_size = static_cast<std::size_t>(std::abs(header.bitpix)) / 8;
    FUZZ_CHECK(pixel_size == 1 || pixel_size == 2 || pixel_size == 4 || pixel_size == 8);
    const bool is_empty = std::count(header.shape.begin(), header.shape.end(), 0) > 0;
    std::size_t pixels = header.shape.empty() || is_empty ? 0 : 1;
    for (const std::int64_t length : header.shape) {
        FUZZ_CHECK(length >= 0);
        if (!is_empty)
            pixels *= static_cast<std::size_t>(length);  // at most the size of the file at each step
        FUZZ_CHECK(pixels <= header.data_size / pixel_size);
    }
}

// The same bytes with nothing behind them give the same header: no byte beyond its blocks decides anything.
void check_alone(const Header& header, const Bytes& file, std::size_t offset) {
    const Bytes alone(file.data.get() + offset, header.data_offset + header.data_size - offset);
    const Header again = parse_header(alone.data.get(), alone.size, 0);
    FUZZ_CHECK(again.text == header.text && again.shape == header.shape && again.bitpix == header.bitpix);
    FUZZ_CHECK(again.data_size == header.data_size && again.data_offset == header.data_offset - offset);
    FUZZ_CHECK(again.entries.size() == header.entries.size());
    for (std::size_t i = 0; i < again.entries.size(); ++i) {
        FUZZ_CHECK(again.entries[i].key == header.entries[i].key);
        FUZZ_CHECK(again.entries[i].value.index() == header.entries[i].value.index());
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const Bytes file(data, size);
    std::size_t offset = 0;
    try {
        do {
            const Header header = parse_header(file.data.get(), file.size, static_cast<std::int64_t>(offset));
            check_header(header, offset, file.size);
            check_alone(header, file, offset);
            offset = header.next_offset;
        } while (offset < file.size);
    } catch (const FormatError& error) {
        check_error(error);
    }
    return 0;
}
