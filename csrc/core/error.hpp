// Exceptions of the core. They carry the parts of a message; the bindings turn them into the package's own.
#pragma once

#include <exception>
#include <string>
#include <utility>

namespace margformer {

// Input that cannot be used: what is wrong, where, and what would have been right (empty if nothing to add).
class DataError : public std::exception {
  public:
    explicit DataError(std::string what, std::string where = "", std::string expected = "")
        : problem(std::move(what)), where(std::move(where)), expected(std::move(expected)) {}

    const char* what() const noexcept override { return problem.c_str(); }

    std::string problem;
    std::string where;
    std::string expected;
};

// ... and it is the structure of a FITS file that is broken.
class FormatError : public DataError {
  public:
    using DataError::DataError;
};

}  // namespace margformer
