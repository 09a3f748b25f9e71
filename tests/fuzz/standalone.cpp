// An engine for compilers without libFuzzer: seeds changed at random, without knowing what code they reach.
// It takes libFuzzer's options that run.py uses, keeps the input of a finding in the same way, and counts
// like it.
#include <sanitizer/common_interface_defs.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed);

namespace {

using Input = std::vector<std::uint8_t>;

struct Options {
    unsigned long long runs = 0;  // 0 is without end
    unsigned seed = 1;
    std::size_t max_len = 1 << 15;
    unsigned timeout = 10;
    unsigned long long max_total_time = 0;
    std::string artifact_prefix;
    std::vector<std::string> paths;
};

std::minstd_rand engine_random;
Input current;
std::string artifact_prefix;
bool is_replay = false;

// Called as the process dies, from a signal or the sanitizer: only the simplest calls.
void keep_input(const char* why) {
    if (is_replay) return;
    const std::string path =
        artifact_prefix + why + "-" + std::to_string(static_cast<unsigned long long>(::getpid()));
    if (std::FILE* file = std::fopen(path.c_str(), "wb")) {
        std::fwrite(current.data(), 1, current.size(), file);
        std::fclose(file);
        std::fprintf(stderr, "input kept in %s\n", path.c_str());
    }
}

void on_death() { keep_input("crash"); }

void on_signal(int signal) {
    std::fprintf(stderr, signal == SIGALRM ? "one input took longer than allowed\n" : "aborted\n");
    keep_input(signal == SIGALRM ? "timeout" : "crash");
    ::_exit(signal == SIGALRM ? 70 : 77);
}

Options parse(int count, char** arguments) {
    Options options;
    for (int i = 1; i < count; ++i) {
        const std::string argument = arguments[i];
        const std::size_t equals = argument.find('=');
        if (argument[0] != '-') {
            options.paths.push_back(argument);
            continue;
        }
        const std::string name = argument.substr(1, equals - 1);
        const std::string value = equals == std::string::npos ? "" : argument.substr(equals + 1);
        const auto number = std::strtoull(value.c_str(), nullptr, 10);
        if (name == "runs") options.runs = number;
        if (name == "seed") options.seed = static_cast<unsigned>(number);
        if (name == "max_len") options.max_len = number;
        if (name == "timeout") options.timeout = static_cast<unsigned>(number);
        if (name == "max_total_time") options.max_total_time = number;
        if (name == "artifact_prefix") options.artifact_prefix = value;
    }
    return options;
}

Input read(const std::filesystem::path& path) {
    std::ifstream stream(path, std::ios::binary);
    return Input(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
}

void run(unsigned timeout) {
    ::alarm(timeout);
    LLVMFuzzerTestOneInput(current.data(), current.size());
}

}  // namespace

// A few bytes changed, put in, left out or repeated.
extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size) {
    const auto draw = [](std::size_t count) { return static_cast<std::size_t>(engine_random()) % count; };
    for (std::size_t n = 1 + draw(4); n > 0; --n) {
        const std::size_t at = size == 0 ? 0 : draw(size);
        switch (draw(4)) {
            case 0:
                if (size < max_size) {
                    std::memmove(data + at + 1, data + at, size - at);
                    data[at] = static_cast<std::uint8_t>(draw(256));
                    ++size;
                }
                break;
            case 1:
                if (size > 1) {
                    std::memmove(data + at, data + at + 1, size - at - 1);
                    --size;
                }
                break;
            case 2:
                if (size > 0) data[at] = static_cast<std::uint8_t>(draw(256));
                break;
            default:
                if (size > 0) {
                    data[at] = static_cast<std::uint8_t>(data[at] ^ (1u << draw(8)));
                }
                break;
        }
    }
    return size;
}

int main(int count, char** arguments) {
    const Options options = parse(count, arguments);
    artifact_prefix = options.artifact_prefix;
    engine_random.seed(options.seed);
    __sanitizer_set_death_callback(&on_death);
    std::signal(SIGALRM, &on_signal);
    std::signal(SIGABRT, &on_signal);

    std::vector<Input> seeds;
    for (const std::string& path : options.paths) {
        if (std::filesystem::is_directory(path)) {
            std::vector<std::filesystem::path> files;
            for (const auto& entry : std::filesystem::directory_iterator(path)) files.push_back(entry.path());
            std::sort(files.begin(), files.end());
            for (const auto& file : files) seeds.push_back(read(file));
        } else {
            is_replay = true;
            current = read(path);
            std::fprintf(stderr, "Running: %s\n", path.c_str());
            run(options.timeout);
        }
    }
    if (is_replay) return 0;
    if (seeds.empty()) seeds.emplace_back();

    const auto start = std::chrono::steady_clock::now();
    const auto seconds = [&] {
        return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    };
    Input scratch(options.max_len);
    unsigned long long runs = 0;
    while ((options.runs == 0 || runs < options.runs) &&
           (options.max_total_time == 0 || seconds() < static_cast<double>(options.max_total_time))) {
        if (runs < seeds.size()) {
            current = seeds[runs];
        } else {
            const Input& seed = seeds[engine_random() % seeds.size()];
            std::size_t size = std::min(seed.size(), scratch.size());
            std::copy_n(seed.begin(), size, scratch.begin());
            for (std::size_t n = 1 + engine_random() % 4; n > 0; --n) {
                size = LLVMFuzzerCustomMutator(scratch.data(), size, scratch.size(), engine_random());
            }
            current.assign(scratch.begin(), scratch.begin() + static_cast<std::ptrdiff_t>(size));
        }
        run(options.timeout);
        ++runs;
    }
    ::alarm(0);
    std::fprintf(stderr, "stat::number_of_executed_units: %llu\n", runs);
    std::fprintf(stderr, "stat::average_exec_per_sec:     %.0f\n", static_cast<double>(runs) / seconds());
    return 0;
}
