// Prints the types that kernels exist for, a list a line: what kernel_types_test.py holds tests and benchmarks against.
#include <iostream>

#include "mla/formats/formats.hpp"

namespace {

template <class List>
void print(const char* list) {
    std::cout << list;
    mla::for_each_type(List{}, []<class T>() { std::cout << ' ' << mla::Format<T>::name; });
    std::cout << '\n';
}

}  // namespace

int main() {
    print<mla::StorageTypes>("storage");
    print<mla::CacheTypes>("cache");
    print<mla::WeightTypes>("weight");
}
