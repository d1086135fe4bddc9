// What the verifier says about tiles and the memory they come from.
// RUN: attir opt %s --split-input-file --verify-diagnostics

// The rows of a group: of known and of unknown number, of vectors and of numbers.
"func.func"() <{function_type = (tensor<?x8x?x64xf16>, tensor<2x8x3xf32>, index) -> (), sym_name = "rows"}> ({
^bb0(%q: tensor<?x8x?x64xf16>, %lse: tensor<2x8x3xf32>, %i: index):
  %a = "tile.group_rows"(%q, %i, %i) <{group = 4 : i64}> : (tensor<?x8x?x64xf16>, index, index) -> tensor<?x64xf16>
  %b = "tile.group_rows"(%lse, %i, %i) <{group = 2 : i64}> : (tensor<2x8x3xf32>, index, index) -> tensor<6xf32>
  "func.return"() : () -> ()
}) : () -> ()

// -----

"func.func"() <{function_type = (tensor<8x64xf16>, index) -> (), sym_name = "rank"}> ({
^bb0(%q: tensor<8x64xf16>, %i: index):
  // expected-error@+1 {{operand must be (batch, head, query, ...), but is tensor<8x64xf16>}}
  %a = "tile.group_rows"(%q, %i, %i) <{group = 4 : i64}> : (tensor<8x64xf16>, index, index) -> tensor<?x64xf16>
  "func.return"() : () -> ()
}) : () -> ()

// -----

"func.func"() <{function_type = (tensor<2x8x3xf32>, index) -> (), sym_name = "group"}> ({
^bb0(%q: tensor<2x8x3xf32>, %i: index):
  // expected-error@+1 {{group must be positive and divide the heads of tensor<2x8x3xf32>, but is 3}}
  %a = "tile.group_rows"(%q, %i, %i) <{group = 3 : i64}> : (tensor<2x8x3xf32>, index, index) -> tensor<9xf32>
  "func.return"() : () -> ()
}) : () -> ()

// -----

"func.func"() <{function_type = (tensor<2x8x3xf32>, index) -> (), sym_name = "result"}> ({
^bb0(%q: tensor<2x8x3xf32>, %i: index):
  // expected-error@+1 {{result must be tensor<6xf32>, but is tensor<3xf32>}}
  %a = "tile.group_rows"(%q, %i, %i) <{group = 2 : i64}> : (tensor<2x8x3xf32>, index, index) -> tensor<3xf32>
  "func.return"() : () -> ()
}) : () -> ()
