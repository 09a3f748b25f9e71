// Changes to a FITS file that leave it nearly right: cards are set, moved, repeated and dropped, axes
// changed, HDUs added and cut. Bytes changed anywhere are left to the engine, which is asked for them now and
// then.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace {

constexpr std::size_t kCard = 80;
constexpr std::size_t kBlock = 2880;

const char* const kKeys[] = {"SIMPLE", "XTENSION", "BITPIX",   "NAXIS",    "NAXIS1",  "NAXIS2", "NAXIS3",
                             "NAXIS4", "NAXIS5",   "PCOUNT",   "GCOUNT",   "GROUPS",  "BSCALE", "BZERO",
                             "BLANK",  "EXTNAME",  "CONTINUE", "HIERARCH", "COMMENT", "KEY",    "END"};
const char* const kValues[] = {"T",
                               "F",
                               "0",
                               "1",
                               "2",
                               "3",
                               "5",
                               "8",
                               "16",
                               "32",
                               "64",
                               "-32",
                               "-64",
                               "-1",
                               "+7",
                               "999",
                               "1000",
                               "65536",
                               "4294967296",
                               "4611686018427387904",
                               "9223372036854775807",
                               "-9223372036854775808",
                               "9223372036854775808",
                               "99999999999999999999999999999",
                               "0.5",
                               "-0.0",
                               "1.",
                               ".5",
                               ".",
                               "+",
                               "1E5",
                               "1D-3",
                               "1E",
                               "1E+",
                               "1E400",
                               "1E-400",
                               "1.7976931348623157E308",
                               "4.9E-324",
                               "NaN",
                               "''",
                               "'",
                               "'IMAGE   '",
                               "'BINTABLE'",
                               "'it''s'",
                               "'long &'",
                               "'&'",
                               "'open",
                               "'a' b",
                               "1 2",
                               "/ remark",
                               "",
                               "= = =",
                               "'x' / remark"};

// What a mutation draws; one seed gives one mutation.
class Draw {
  public:
    explicit Draw(unsigned seed) : engine_(seed) {}

    // 0 to count - 1; count is not 0.
    std::size_t operator()(std::size_t count) { return engine_() % count; }

    template <std::size_t kCount>
    std::string operator()(const char* const (&choices)[kCount]) {
        return choices[(*this)(kCount)];
    }

  private:
    std::minstd_rand engine_;
};

std::string padded(std::string text, std::size_t unit, char fill) {
    text.resize((text.size() + unit - 1) / unit * unit, fill);
    return text;
}

// A file around one of its headers: what is before, its cards up to END, and what follows its last block.
struct File {
    std::string before;
    std::vector<std::string> cards;
    std::string after;

    std::string text() const {
        std::string header;
        for (const std::string& card : cards) header += card;
        return before + padded(header, kBlock, ' ') + after;
    }
};

File split(const std::string& text, Draw& draw) {
    std::vector<std::size_t> headers;
    for (std::size_t at = 0; at < text.size(); at += kBlock) {
        if (text.compare(at, 8, "SIMPLE  ") == 0 || text.compare(at, 8, "XTENSION") == 0)
            headers.push_back(at);
    }
    const std::size_t begin = headers.empty() ? 0 : headers[draw(headers.size())];
    File file{text.substr(0, begin), {}, {}};
    std::size_t at = begin;
    bool is_end = false;
    while (at < text.size() && !is_end) {
        file.cards.push_back(padded(text.substr(at, kCard), kCard, ' '));
        at += kCard;
        is_end = file.cards.back().compare(0, 8, "END     ") == 0;
    }
    at = begin + (file.cards.size() * kCard + kBlock - 1) / kBlock * kBlock;
    if (at < text.size()) file.after = text.substr(at);
    return file;
}

std::string any_value(Draw& draw) {
    if (draw(4) == 0) return std::to_string(draw(70));
    return draw(kValues);
}

std::string any_card(Draw& draw) {
    std::string key = draw(kKeys);
    if (key == "END") return padded(key, kCard, ' ');
    key.resize(8, ' ');
    std::string card;
    switch (draw(6)) {
        case 0:
            card = "CONTINUE  " + any_value(draw);
            break;
        case 1:
            card = "HIERARCH " + draw(kKeys) + " " + draw(kKeys) + " = " + any_value(draw);
            break;
        case 2:
            card = key + any_value(draw);
            break;
        default:
            card = key + "= " + any_value(draw);
            break;
    }
    card.resize(kCard, ' ');
    return card;
}

// A part of the text changed by the engine, which knows what comparisons the program made.
std::string changed_by_engine(std::string text, std::size_t max_size) {
    const std::size_t size = text.size();
    text.resize(std::max(max_size, size));
    text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, text.size()));
    return text;
}

void change_cards(std::vector<std::string>& cards, Draw& draw) {
    if (cards.empty()) cards.push_back(any_card(draw));
    // The engine likes to change what comes early most; a header has its structure there.
    const std::size_t at = draw(2) == 0 ? draw(std::min<std::size_t>(cards.size(), 8)) : draw(cards.size());
    const auto place = cards.begin() + static_cast<std::ptrdiff_t>(at);
    switch (draw(8)) {
        case 0:
        case 1: {
            std::string card = place->substr(0, 8) + "= " + any_value(draw);
            card.resize(kCard, ' ');
            *place = card;
            break;
        }
        case 2:
            *place = any_card(draw);
            break;
        case 3:
            cards.insert(place, any_card(draw));
            break;
        case 4:
            cards.insert(place, std::string(cards[draw(cards.size())]));
            break;
        case 5:
            cards.erase(place);
            break;
        case 6:
            std::swap(*place, cards[draw(cards.size())]);
            break;
        default:
            *place = changed_by_engine(*place, kCard);
            place->resize(kCard, ' ');
            break;
    }
}

std::string mutated(const std::string& text, std::size_t max_size, Draw& draw) {
    File file = split(text, draw);
    switch (draw(12)) {
        case 0:
            return changed_by_engine(text, max_size);
        case 1:
            file.after = changed_by_engine(file.after, std::min(max_size, file.after.size() + 64));
            return file.text();
        case 2:
            return text.substr(0, draw(text.size() + 1));
        case 3: {  // the same HDU again, behind the file
            File other{padded(text, kBlock, '\0'), file.cards, file.after};
            if (!other.cards.empty() && draw(2) == 0)
                other.cards[0] = padded("XTENSION= 'IMAGE   '", kCard, ' ');
            return other.text();
        }
        case 4:  // data of another length
            file.after.resize(draw(2) == 0 ? draw(600) : draw(kBlock + 1), static_cast<char>(draw(256)));
            return file.text();
        default:
            for (std::size_t n = 1 + draw(3); n > 0; --n) change_cards(file.cards, draw);
            return file.text();
    }
}

}  // namespace

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
    Draw draw(seed);
    std::string text = mutated(std::string(reinterpret_cast<const char*>(data), size), max_size, draw);
    text.resize(std::min(text.size(), max_size));
    std::memcpy(data, text.data(), text.size());
    return text.size();
}
