// The safetensors reader: what it gives, and that no file whatever makes it do anything but throw.
#include <gtest/gtest.h>

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mla/core/types.hpp"
#include "mla/io/safetensors.hpp"

namespace mla {
namespace {

using io::Safetensors;
using io::SafetensorsError;
namespace fs = std::filesystem;
using namespace std::string_literals;

/// The bytes of a file: header length, header, data. `length` replaces the true header length.
std::string file_bytes(const std::string& header, const std::string& data = "", std::uint64_t length = ~std::uint64_t{0}) {
    if (length == ~std::uint64_t{0}) length = header.size();
    std::string bytes(sizeof length, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes + header + data;
}

std::span<const std::byte> as_span(const std::string& bytes) { return std::as_bytes(std::span(bytes)); }

Safetensors open(const std::string& bytes) { return Safetensors(as_span(bytes), "test.safetensors"); }

template <class T>
std::string value_bytes(std::initializer_list<T> values) {
    std::string bytes(values.size() * sizeof(T), '\0');
    std::memcpy(bytes.data(), values.begin(), bytes.size());
    return bytes;
}

/// `call` throws a SafetensorsError that names the file and holds each of `parts`.
template <class Call>
void expect_error(Call call, std::initializer_list<std::string_view> parts) {
    try {
        call();
        ADD_FAILURE() << "nothing thrown, expected " << *parts.begin();
    } catch (const SafetensorsError& error) {
        const std::string_view message = error.what();
        EXPECT_NE(message.find("test.safetensors"), std::string_view::npos) << message;
        for (const std::string_view part : parts)
            EXPECT_NE(message.find(part), std::string_view::npos) << message << " lacks " << part;
    }
}

void expect_refused(const std::string& bytes, std::initializer_list<std::string_view> parts) {
    expect_error([&] { static_cast<void>(open(bytes)); }, parts);
}

/// A header with the one tensor 'w' and the given fields.
std::string header_of(const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"w":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
}

TEST(SafetensorsTest, ReadsEveryFloatingTypeInOneAndTwoDimensions) {
    const std::string header = R"({"a":{"dtype":"F64","shape":[2,1],"data_offsets":[0,16]},)"
                               R"("b":{"dtype":"F32","shape":[3],"data_offsets":[16,28]},)"
                               R"("c":{"dtype":"BF16","shape":[1,2],"data_offsets":[28,32]},)"
                               R"("d":{"dtype":"F16","shape":[2],"data_offsets":[32,36]}})";
    const std::string bytes =
        file_bytes(header, value_bytes({1.5, -2.5}) + value_bytes({3.5F, 4.5F, 5.5F}) + value_bytes({bf16(6.5F), bf16(7.5F)}) +
                               value_bytes({fp16(8.5F), fp16(9.5F)}));
    Safetensors file = open(bytes);
    const auto check = [&](const char* name, DType type, Index rows, Index cols, const std::vector<double>& values) {
        const TensorRef tensor = file.tensor(name);
        EXPECT_EQ(tensor.dtype, type) << name;
        EXPECT_EQ(tensor.rows, rows) << name;
        EXPECT_EQ(tensor.cols, cols) << name;
        EXPECT_EQ(tensor.stride, cols) << name;
        tensor.visit([&](const auto& element) {
            for (Index r = 0; r < rows; ++r)
                for (Index c = 0; c < cols; ++c)
                    EXPECT_EQ(static_cast<double>(element(r, c)), values[static_cast<std::size_t>(r * cols + c)])
                        << name << r << c;
        });
    };
    check("a", DType::f64, 2, 1, {1.5, -2.5});
    check("b", DType::f32, 1, 3, {3.5, 4.5, 5.5});
    check("c", DType::bf16, 1, 2, {6.5, 7.5});
    check("d", DType::f16, 1, 2, {8.5, 9.5});
}

TEST(SafetensorsTest, ListsTensorsOfAnyTypeAndRank) {
    const std::string header = R"({"scalar":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
                               R"("cube":{"shape":[2,1,2],"data_offsets":[8,12],"dtype":"F8_E4M3"},)"
                               R"("none":{"dtype":"F32","shape":[0,9223372036854775807],"data_offsets":[12,12]},)"
                               R"("flag":{"dtype":"BOOL","shape":[1],"data_offsets":[12,13]}})";
    const std::string bytes = file_bytes(header, value_bytes({std::int64_t{-7}}) + "abcd\1");
    const Safetensors file = open(bytes);
    ASSERT_EQ(file.tensors().size(), 4U);
    EXPECT_TRUE(file.contains("cube"));
    EXPECT_FALSE(file.contains("Cube"));
    EXPECT_EQ(file.info("cube").dtype, "F8_E4M3");
    EXPECT_EQ(file.info("cube").shape, (std::vector<Index>{2, 1, 2}));
    EXPECT_EQ(file.bytes("cube").size(), 4U);
    EXPECT_EQ(file.bytes("cube")[3], std::byte{'d'});
    EXPECT_TRUE(file.info("scalar").shape.empty());
    std::int64_t scalar = 0;
    std::memcpy(&scalar, file.bytes("scalar").data(), sizeof scalar);
    EXPECT_EQ(scalar, -7);
    EXPECT_TRUE(file.bytes("none").empty());
}

TEST(SafetensorsTest, ReadsMetadataAndAPaddedHeader) {
    const Safetensors file = open(file_bytes(R"({"__metadata__":{"format":"pt","a\"b":"\u00e4"}}   )"));
    EXPECT_TRUE(file.tensors().empty());
    EXPECT_EQ(file.metadata().at("format"), "pt");
    EXPECT_EQ(file.metadata().at("a\"b"), "ä");
}

TEST(SafetensorsTest, MisalignedTensorsAreCopiedOnceToAlignedMemory) {
    const std::string header =
        R"({"odd":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"x":{"dtype":"F64","shape":[2],"data_offsets":[1,17]}})";
    const std::string file_data = file_bytes(header, "?" + value_bytes({1.25, -8.0}));
    // Every alignment of the file itself, so that at least seven of eight misalign x.
    for (std::size_t shift = 0; shift < 8; ++shift) {
        const std::string memory = std::string(shift, ' ') + file_data;
        Safetensors file(as_span(memory).subspan(shift), "test.safetensors");
        const TensorRef x = file.tensor("x");
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(x.data) % alignof(double), 0U);
        EXPECT_EQ(static_cast<const double*>(x.data)[0], 1.25);
        EXPECT_EQ(static_cast<const double*>(x.data)[1], -8.0);
        EXPECT_EQ(file.tensor("x").data, x.data);
    }
}

TEST(SafetensorsTest, AlignedTensorsAreNotCopied) {
    const std::string header = header_of(R"("F32")", "[2]", "[0,8]") + std::string(3, ' ');
    alignas(8) std::array<char, 128> memory{};
    const std::string bytes = file_bytes(header + std::string((8 - header.size() % 8) % 8, ' '), value_bytes({1.0F, 2.0F}));
    std::memcpy(memory.data(), bytes.data(), bytes.size());
    Safetensors file(std::as_bytes(std::span(memory)).first(bytes.size()));
    EXPECT_EQ(file.tensor("w").data, static_cast<const void*>(memory.data() + bytes.size() - 8));
}

TEST(SafetensorsTest, TensorRefusesWhatIsNoMatrixOfFloats) {
    const std::string header =
        R"({"int":{"dtype":"I32","shape":[1],"data_offsets":[0,4]},"cube":{"dtype":"F32","shape":[1,1,1],"data_offsets":[4,8]},)"
        R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[8,12]},"none":{"dtype":"F32","shape":[3,0],"data_offsets":[12,12]}})";
    const std::string bytes = file_bytes(header, std::string(12, '\0'));
    Safetensors file = open(bytes);
    expect_error([&] { static_cast<void>(file.tensor("int")); }, {"'int'", "I32", "F64, F32, BF16, F16, F8_E4M3 or I8"});
    expect_error([&] { static_cast<void>(file.tensor("cube")); }, {"'cube'", "[1, 1, 1]"});
    expect_error([&] { static_cast<void>(file.tensor("scalar")); }, {"'scalar'", "[]"});
    expect_error([&] { static_cast<void>(file.tensor("none")); }, {"'none'", "[3, 0]"});
    expect_error([&] { static_cast<void>(file.tensor("absent")); }, {"'absent'", "missing"});
    expect_error([&] { static_cast<void>(file.bytes("absent")); }, {"'absent'", "missing"});
    expect_error([&] { static_cast<void>(file.info("absent")); }, {"'absent'", "missing"});
}

TEST(SafetensorsTest, RejectsImpossibleHeaderLengths) {
    expect_refused("", {"0 bytes"});
    expect_refused("1234567", {"7 bytes"});
    expect_refused(file_bytes("{}", "", 3), {"header length", "3", "at most 2"});
    expect_refused(file_bytes("{}", "", std::uint64_t{1} << 63U), {"header length", "9223372036854775808"});
    expect_refused(file_bytes("{}", "", ~std::uint64_t{0} - 1), {"header length"});
    expect_refused(file_bytes("{}", "", ~std::uint64_t{0} - 7), {"header length"});  // 8 + length wraps to 0
}

TEST(SafetensorsTest, RejectsHeadersThatAreNoJsonObject) {
    for (const std::string& header : {""s, "[]"s, "null"s, " {}"s, "{"s, R"({"a")"s, "{}x"s, "{}{}"s, "{/**/}"s,
                                      "\xef\xbb\xbf{}"s, "{\"\xff\":1}"s, R"({"a":1e999})"s})
        expect_refused(file_bytes(header), {"header"});
    expect_refused(file_bytes("{}\0{}"s), {"header", "zero byte"});
    expect_refused(file_bytes("{\"\x80\":{}}"s), {"header", "UTF-8"});
}

TEST(SafetensorsTest, RejectsNestingOfAnyDepthAtTheFirstStep) {
    const std::string arrays(1'000'000, '[');
    expect_refused(file_bytes(R"({"w":)" + arrays), {"'w'", "an array"});
    expect_refused(file_bytes(header_of(R"("F32")", arrays, "[0,4]")), {"'w'", "an array"});
    std::string objects = R"({"w":{"shape":)";
    for (int i = 0; i < 100'000; ++i) objects += R"({"shape":)";
    expect_refused(file_bytes(objects), {"'w'", "an object"});
}

TEST(SafetensorsTest, RejectsFieldsOfAnotherType) {
    const std::string data(4, '\0');
    const auto refuse = [&](const char* dtype, const char* shape, const char* offsets, const char* part) {
        expect_refused(file_bytes(header_of(dtype, shape, offsets), data), {"tensor 'w'", part});
    };
    refuse("1", "[1]", "[0,4]", "dtype");
    refuse("null", "[1]", "[0,4]", "dtype");
    refuse(R"(["F32"])", "[1]", "[0,4]", "dtype");
    refuse(R"("F32")", "1", "[0,4]", "shape");
    refuse(R"("F32")", R"("1")", "[0,4]", "shape");
    refuse(R"("F32")", "{}", "[0,4]", "shape");
    refuse(R"("F32")", R"(["1"])", "[0,4]", "shape");
    refuse(R"("F32")", "[1.0]", "[0,4]", "shape");
    refuse(R"("F32")", "[true]", "[0,4]", "shape");
    refuse(R"("F32")", "[null]", "[0,4]", "shape");
    refuse(R"("F32")", "[-1]", "[0,4]", "shape");
    refuse(R"("F32")", "[1]", "4", "data_offsets");
    refuse(R"("F32")", "[1]", "[0,4.0]", "data_offsets");
    refuse(R"("F32")", "[1]", "[0,-4]", "data_offsets");
    refuse(R"("F32")", "[1]", "[-4,0]", "data_offsets");
    refuse(R"("F32")", "[1]", "[]", "data_offsets");
    refuse(R"("F32")", "[1]", "[0]", "data_offsets");
    refuse(R"("F32")", "[1]", "[0,4,4]", "data_offsets");
    for (const char* entry : {"1", R"("F32")", "null", "true", "-1", "0.5", "[]"})
        expect_refused(file_bytes(std::string(R"({"w":)") + entry + "}"), {"'w'", "an object"});
    for (const char* entry : {"1", "null", "[]", "{}"})
        expect_refused(file_bytes(std::string(R"({"__metadata__":{"k":)") + entry + "}}"), {"__metadata__ 'k'", "a string"});
    expect_refused(file_bytes(R"({"__metadata__":[]})"), {"__metadata__", "an object"});
}

TEST(SafetensorsTest, RejectsMissingUnknownAndRepeatedFields) {
    expect_refused(file_bytes(R"({"w":{}})"), {"'w' dtype", "missing"});
    expect_refused(file_bytes(R"({"w":{"dtype":"F32","data_offsets":[0,4]}})"), {"'w' shape", "missing"});
    expect_refused(file_bytes(R"({"w":{"dtype":"F32","shape":[1]}})"), {"'w' data_offsets", "missing"});
    expect_refused(file_bytes(R"({"w":{"dtype":"F32","color":1}})"), {"'w' 'color'", "unknown"});
    expect_refused(file_bytes(R"({"w":{"dtype":"F32","dtype":"F32"}})"), {"'w' 'dtype'", "twice"});
    expect_refused(file_bytes(R"({"w":{"shape":[1],"shape":[1]}})"), {"'w' 'shape'", "twice"});
    const std::string empty = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
    expect_refused(file_bytes(R"({"w":)" + empty + R"(,"w":)" + empty + "}"), {"'w'", "twice"});
    expect_refused(file_bytes(R"({"__metadata__":{},"__metadata__":{}})"), {"'__metadata__'", "twice"});
    expect_refused(file_bytes(R"({"__metadata__":{"k":"1","k":"2"}})"), {"__metadata__ 'k'", "twice"});
}

TEST(SafetensorsTest, RejectsWhatIsNoNameOfAType) {
    for (const char* type : {R"("")", R"("F 32")", R"("F32\n")", R"("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456")"})
        expect_refused(file_bytes(header_of(type, "[1]", "[0,4]"), "1234"), {"'w' 'dtype'", "a data type's name"});
}

TEST(SafetensorsTest, TypesThatNobodyAsksForMayBeAny) {
    const auto opened = [](const char* type, const char* shape) {
        const std::string bytes = file_bytes(header_of(type, shape, "[0,6]"), "123456");
        Safetensors file = open(bytes);
        EXPECT_EQ(file.bytes("w").size(), 6U);
        expect_error([&] { static_cast<void>(file.tensor("w")); }, {"'w'", "F64, F32, BF16, F16, F8_E4M3 or I8"});
    };
    opened(R"("F4")", "[2,6]");
    opened(R"("F6_E2M3")", "[8]");
    opened(R"("F6_E3M2")", "[4,2]");
    opened(R"("F8_E4M3FNUZ")", "[6]");
    opened(R"("F8_E5M2FNUZ")", "[6]");
    opened(R"("F3_TOMORROW")", "[5,7]");
    EXPECT_NO_THROW(static_cast<void>(open(file_bytes(header_of(R"("C64")", "[1]", "[0,8]"), "12345678"))));
    expect_refused(file_bytes(header_of(R"("F4")", "[3]", "[0,1]"), "1"), {"'w' data_offsets", "whole bytes", "F4 [3]"});
    expect_refused(file_bytes(header_of(R"("F4")", "[2]", "[0,2]"), "12"), {"'w' data_offsets", "1 bytes", "F4 [2]"});
    expect_refused(file_bytes(header_of(R"("LATER")", "[2]", "[4,2]"), "1234"), {"'w' data_offsets", "in order"});
    expect_refused(file_bytes(header_of(R"("LATER")", "[2]", "[0,2]"), "1234"), {"data section"});
}

TEST(SafetensorsTest, MetadataMayBeNull) {
    EXPECT_TRUE(open(file_bytes(R"({"__metadata__":null})")).metadata().empty());
    expect_refused(file_bytes(R"({"__metadata__":null,"__metadata__":{}})"), {"'__metadata__'", "twice"});
}

TEST(SafetensorsTest, RejectsShapesThatAreTooLargeOrDoNotFillTheirBytes) {
    const auto refuse = [&](const char* shape, std::initializer_list<std::string_view> parts) {
        expect_refused(file_bytes(header_of(R"("F32")", shape, "[0,8]"), "12345678"), parts);
    };
    refuse("[1]", {"'w' data_offsets", "[0, 8]", "4 bytes", "F32 [1]"});
    refuse("[3]", {"'w' data_offsets", "12 bytes"});
    refuse("[]", {"'w' data_offsets", "4 bytes"});
    refuse("[2,0]", {"'w' data_offsets", "0 bytes"});
    refuse("[9223372036854775808]", {"'w' 'shape'", "9223372036854775808"});
    refuse("[18446744073709551616]", {"'w' 'shape'"});
    refuse("[4611686018427387904]", {"'w' shape", "2^61"});      // times 4 wraps to 0
    refuse("[4611686018427387904,2,2]", {"'w' shape", "2^61"});  // so does the product of the dimensions
    refuse("[4611686018427387906]", {"'w' shape", "2^61"});      // times 4 wraps to 8, the bytes there are
    refuse("[1,1,1,1,1,1,1,1,2]", {"'w' 'shape'", "at most 8"});
}

TEST(SafetensorsTest, RejectsOffsetsOutsideTheData) {
    const auto refuse = [&](const char* offsets, const std::string& data) {
        expect_refused(file_bytes(header_of(R"("F32")", "[1]", offsets), data), {"must be"});
    };
    refuse("[0,4]", "123");
    refuse("[0,4]", "");
    refuse("[4,0]", "1234");
    refuse("[9223372036854775800,9223372036854775804]", "1234");
    expect_refused(file_bytes(header_of(R"("F32")", "[1]", "[18446744073709551612,0]"), "1234"), {"'w' 'data_offsets'"});
    // 0 - 4 wraps to the 2^64 - 4 bytes that b asks for; believed, it would end the data before a does.
    expect_refused(file_bytes(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                              R"("b":{"dtype":"F32","shape":[4611686018427387903],"data_offsets":[4,0]}})"),
                   {"'b' shape", "below 2^61 bytes"});
}

TEST(SafetensorsTest, RejectsGapsOverlapsAndTrailingData) {
    const auto two = [](const char* first, const char* second) {
        return std::string(R"({"a":{"dtype":"U8","shape":[2],"data_offsets":)") + first +
               R"(},"b":{"dtype":"U8","shape":[2],"data_offsets":)" + second + "}}";
    };
    EXPECT_NO_THROW(static_cast<void>(open(file_bytes(two("[2,4]", "[0,2]"), "1234"))));
    expect_refused(file_bytes(two("[0,2]", "[1,3]"), "123"), {"'b' data_offsets[0]", "1", "2"});
    expect_refused(file_bytes(two("[0,2]", "[0,2]"), "12"), {"data_offsets[0]"});
    expect_refused(file_bytes(two("[0,2]", "[3,5]"), "12345"), {"'b' data_offsets[0]", "3"});
    expect_refused(file_bytes(two("[1,3]", "[3,5]"), "12345"), {"'a' data_offsets[0]", "1", "0"});
    expect_refused(file_bytes(two("[0,2]", "[2,4]"), "12345"), {"data section", "5 bytes", "4 bytes"});
    expect_refused(file_bytes("{}", "1"), {"data section", "1 bytes"});
}

TEST(SafetensorsTest, LongOrUnprintableNamesAreCutInMessages) {
    const std::string name(1'000'000, 'n');
    const std::string bytes = file_bytes(R"({")" + name + R"(\n":1})");
    try {
        static_cast<void>(open(bytes));
        ADD_FAILURE() << "nothing thrown";
    } catch (const SafetensorsError& error) {
        EXPECT_LT(std::string_view(error.what()).size(), 400U);
    }
    expect_refused(file_bytes(R"({"a\nb":1})"), {"'a?b'"});
}

/// A small file with every feature, for damaging.
std::string whole_file() {
    return file_bytes(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
                      R"("b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}})",
                      std::string(14, '\1'));
}

TEST(SafetensorsTest, RejectsEveryTruncation) {
    const std::string bytes = whole_file();
    ASSERT_NO_THROW(static_cast<void>(open(bytes)));
    for (std::size_t size = 0; size < bytes.size(); ++size) {
        // A copy of exactly that size, so that a sanitizer sees any read beyond it.
        const std::vector<char> part(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
        EXPECT_THROW(Safetensors{std::as_bytes(std::span{part})}, SafetensorsError) << size;
    }
}

TEST(SafetensorsTest, AnyDamagedByteIsReadSafelyOrRejected) {
    const std::string bytes = whole_file();
    std::size_t rejected = 0;
    for (std::size_t i = 0; i < bytes.size(); ++i)
        for (int value = 0; value < 256; ++value) {
            std::vector<char> damaged(bytes.begin(), bytes.end());
            damaged[i] = static_cast<char>(value);
            try {
                Safetensors file(std::as_bytes(std::span(damaged)));
                for (const auto& [name, info] : file.tensors())
                    if (info.shape.size() == 2 && info.dtype == "F32") static_cast<void>(file.tensor(name));
            } catch (const SafetensorsError&) {
                ++rejected;
            }
        }
    EXPECT_GT(rejected, bytes.size() * 128);
}

class SafetensorsFileTest : public ::testing::Test {
  protected:
    // Tests run side by side, each in its own process.
    const fs::path path = fs::path(::testing::TempDir()) / (std::to_string(::getpid()) + ".test.safetensors");
    void SetUp() override { fs::remove_all(path); }
    void TearDown() override { fs::remove_all(path); }
    void write(const std::string& bytes) const {
        std::ofstream(path, std::ios::binary).write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    }
};

TEST_F(SafetensorsFileTest, MapsAFileThatOutlivesMoves) {
    write(file_bytes(header_of(R"("F32")", "[2]", "[0,8]"), value_bytes({1.5F, 2.5F})));
    Safetensors first(path);
    Safetensors second = std::move(first);
    Safetensors third(path);
    third = std::move(second);
    const TensorRef tensor = third.tensor("w");
    EXPECT_EQ(static_cast<const float*>(tensor.data)[1], 2.5F);
}

TEST_F(SafetensorsFileTest, ErrorsNameTheFile) {
    write("");
    expect_error([&] { static_cast<void>(Safetensors(path)); }, {path.native(), "0 bytes"});
}

TEST_F(SafetensorsFileTest, RefusesHeadersBeyondTheFormatsLimit) {
    write(file_bytes("{}", "", 100'000'001));
    fs::resize_file(path, 100'000'100);  // sparse: nothing is written
    expect_error([&] { static_cast<void>(Safetensors(path)); }, {"header length", "100000001", "at most 100000000"});
}

TEST_F(SafetensorsFileTest, RefusesWhatIsNoRegularFile) {
    EXPECT_THROW(Safetensors{path}, std::system_error);
    fs::create_directory(path);
    EXPECT_THROW(Safetensors{path}, std::system_error);
    fs::remove(path);
    ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
    EXPECT_THROW(Safetensors{path}, std::system_error);
}

}  // namespace
}  // namespace mla
