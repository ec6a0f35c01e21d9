// Fields of a configuration, read so that what is missing, wrong or unknown is an error that names it.
#pragma once

#include <nlohmann/json.hpp>

#include <cmath>
#include <functional>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/core/errors.hpp"
#include "mla/core/types.hpp"
#include "mla/io/errors.hpp"

namespace mla::inline MLA_ISA::io::detail {

/// An object of a configuration. Whoever asks for a field gets a value of the right type and range, or the caller gets
/// an error that names the field. A field that is null counts as not given, as in transformers. What nobody asked for can be
/// refused at the end, so that no field which changes the mathematics is skipped.
class ConfigFields {
  public:
    explicit ConfigFields(const nlohmann::json& object, std::string path = "") : object_(object), path_(std::move(path)) {
        const char* argument = path_.empty() ? "configuration" : path_.c_str();
        if (!object.is_object()) throw_invalid(argument, found(object), "an object");
        if (!path_.empty()) path_ += '.';
    }

    [[nodiscard]] bool has(const char* key) const {
        asked_.emplace(key);
        const auto field = object_.find(key);
        return field != object_.end() && !field->is_null();
    }

    [[noreturn]] void fail(const char* key, const std::string& must) const {
        throw_invalid((path_ + key).c_str(), object_.contains(key) ? found(object_[key]) : "missing", must);
    }

    /// Any other value than this one is an error.
    void require(const char* key, const nlohmann::json& value) const {
        if (has(key) && object_[key] != value) fail(key, "absent or " + value.dump());
    }

    /// Fields that nothing asked for and `irrelevant` does not know are errors.
    template <class Irrelevant>
    void refuse_others(Irrelevant irrelevant) const {
        for (const auto& [key, value] : object_.items())
            if (!value.is_null() && !asked_.contains(key) && !irrelevant(std::string_view(key)))
                throw_invalid(printable(path_ + key).c_str(), found(value),
                              "absent: whether it changes attention is not known here");
    }

    [[nodiscard]] ConfigFields object(const char* key) const {
        if (!has(key)) fail(key, "an object");
        return ConfigFields(object_[key], path_ + key);
    }

    [[nodiscard]] std::string string(const char* key) const {
        if (!has(key) || !object_[key].is_string()) fail(key, "a string");
        return object_[key].get<std::string>();
    }

    [[nodiscard]] bool boolean(const char* key, bool otherwise) const {
        if (!has(key)) return otherwise;
        if (!object_[key].is_boolean()) fail(key, "true or false");
        return object_[key].get<bool>();
    }

    /// An integer in [least, 2^53], beyond which JSON writers disagree; 512.0 is one, too.
    [[nodiscard]] Index integer(const char* key, Index least = 1) const {
        constexpr double most = 0x1p53;
        const double value = has(key) && finite(object_[key]) ? object_[key].get<double>() : -1.0;
        if (value < static_cast<double>(least) || value > most || value != std::floor(value))
            fail(key, "an integer in [" + std::to_string(least) + ", 2^53]");
        return static_cast<Index>(value);
    }
    [[nodiscard]] Index integer_or(const char* key, Index otherwise, Index least = 1) const {
        return has(key) ? integer(key, least) : otherwise;
    }

    [[nodiscard]] double number(const char* key) const {
        if (!has(key) || !finite(object_[key])) fail(key, "a finite number");
        return object_[key].get<double>();
    }
    [[nodiscard]] double number(const char* key, double otherwise) const { return has(key) ? number(key) : otherwise; }
    [[nodiscard]] std::optional<double> optional_number(const char* key) const {
        return has(key) ? std::optional(number(key)) : std::nullopt;
    }

    /// An array of `count` numbers.
    [[nodiscard]] std::vector<double> numbers(const char* key, Index count) const {
        const std::string must = "an array of " + std::to_string(count) + " finite numbers";
        if (!has(key) || !object_[key].is_array() || static_cast<Index>(object_[key].size()) != count) fail(key, must);
        std::vector<double> values;
        for (const auto& element : object_[key]) {
            if (!finite(element)) fail(key, must);
            values.push_back(element.get<double>());
        }
        return values;
    }

    [[nodiscard]] const nlohmann::json& json() const noexcept { return object_; }

    /// A value as a message shows it: scalars in full, the rest by what they are.
    [[nodiscard]] static std::string found(const nlohmann::json& value) {
        if (value.is_number_float()) return std::to_string(value.get<double>());
        if (value.is_number() || value.is_boolean()) return value.dump();
        if (value.is_string()) return "'" + value.get<std::string>().substr(0, 80) + "'";
        if (value.is_array()) return "an array of " + std::to_string(value.size());
        return value.type_name();
    }

  private:
    [[nodiscard]] static bool finite(const nlohmann::json& value) {
        return value.is_number() && std::isfinite(value.get<double>());
    }

    const nlohmann::json& object_;
    std::string path_;
    mutable std::set<std::string, std::less<>> asked_;
};

}  // namespace mla::inline MLA_ISA::io::detail
