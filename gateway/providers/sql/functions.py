"""Functions of each SQL dialect that a statement which only reads may call: those without a side effect.

Whatever sqlglot knows by a type of its own is free of side effects in these three dialects; these are the others. A
function that is in neither list is refused, because databases have hundreds that read files, run SQL given as text,
change settings or sleep.
"""

_COMMON = """
char_length character_length concat concat_ws date datetime format hex instr length lower ltrim mod now nullif
octet_length pi power quote replace reverse round rtrim sign soundex substr substring time total trim unhex upper
version
"""

_POSTGRES = """
abbrev acosd age array_agg array_dims array_fill array_lower array_ndims array_positions array_replace array_to_json
array_to_tsvector array_upper asind atand atan2d
bit_count broadcast cardinality clock_timestamp col_description convert
convert_from convert_to cosd cotd current_setting date_bin daterange datemultirange decode encode enum_first enum_last
enum_range erf erfc every factorial family format_type gcd generate_subscripts get_byte has_column_privilege
has_schema_privilege has_table_privilege host hostmask initcap inet_merge inet_same_family int4range int8range
int4multirange int8multirange isempty isfinite json_agg json_array_elements json_array_elements_text json_array_length
json_build_array json_build_object json_each json_each_text json_object json_object_keys json_populate_record
json_populate_recordset json_strip_nulls json_to_record json_to_recordset json_to_tsvector json_typeof jsonb_agg
jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array jsonb_build_object jsonb_each
jsonb_each_text jsonb_insert jsonb_object jsonb_object_keys jsonb_path_exists jsonb_path_match jsonb_path_query
jsonb_path_query_array jsonb_path_query_first jsonb_populate_record jsonb_populate_recordset jsonb_pretty jsonb_set
jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof justify_days justify_hours
justify_interval lcm log10 lower_inc lower_inf macaddr8_set7bit make_date make_timestamptz masklen min_scale
multirange netmask network num_nonnulls num_nulls numeric_send numnode numrange nummultirange obj_description
parse_ident percentile_cont percentile_disc pg_column_size pg_get_constraintdef pg_get_expr pg_get_indexdef
pg_get_viewdef pg_input_is_valid pg_relation_size pg_size_bytes pg_size_pretty pg_table_is_visible pg_table_size
pg_total_relation_size pg_typeof phraseto_tsquery plainto_tsquery querytree quote_ident quote_literal quote_nullable
range_agg range_intersect_agg range_merge regexp_match regexp_matches regexp_split_to_array regexp_split_to_table
regexp_count regexp_instr regexp_like regexp_substr row row_to_json scale set_bit set_byte set_masklen setweight
similarity sind split_part statement_timestamp strict_word_similarity string_to_table strip tand text
timeofday to_ascii to_json to_jsonb to_regclass to_regtype to_tsquery to_tsvector transaction_timestamp trim_array
trim_scale ts_delete ts_filter ts_headline ts_rank ts_rank_cd tsquery_phrase tsrange tsmultirange tstzrange
tstzmultirange tsvector_to_array unaccent unistr upper_inc upper_inf websearch_to_tsquery word_similarity xmlagg
xmlcomment xmlconcat xmlforest xpath xpath_exists area center diameter height width isclosed isopen npoints radius
box circle line lseg path point polygon bool int int2 int4 int8 float4 float8 numeric varchar uuid interval
"""

_MYSQL = """
addtime adddate any_value bin bit_count cast char charset coercibility conv convert convert_tz crc32 curdate curtime
date_format elt export_set field find_in_set from_days
from_unixtime get_format greatest if ifnull inet6_aton inet6_ntoa
inet_aton inet_ntoa interval is_ipv4 is_ipv6 isnull json_array json_array_append json_array_insert json_arrayagg
json_compact json_contains json_contains_path json_depth
json_detailed json_equals json_exists json_extract json_insert
json_keys json_length json_loose json_merge json_merge_patch json_merge_preserve json_normalize json_object
json_objectagg json_overlaps json_pretty json_query json_quote json_remove json_replace json_search json_set json_type
json_unquote json_valid json_value lcase locate makedate maketime microsecond mid natural_sort_key oct ord
period_add period_diff position quarter regexp_instr regexp_like regexp_replace regexp_substr sec_to_time std
str_to_date strcmp subdate substring_index subtime sysdate time_format time_to_sec timediff timestamp timestampadd
timestampdiff to_base64 to_days to_seconds ucase unix_timestamp
utc_date utc_time utc_timestamp uuid values week weekday
weight_string yearweek st_area st_asgeojson st_astext st_contains st_distance st_distance_sphere st_geomfromtext
st_intersects st_within st_x st_y point
"""

_SQLITE = """
bm25 changes char date datetime glob group_concat highlight iif json json_array json_array_length json_each
json_error_position json_extract json_group_array json_group_object json_insert
json_object json_patch json_pretty json_quote json_remove
json_replace json_set json_tree json_type json_valid jsonb jsonb_array jsonb_extract jsonb_object julianday likelihood
likely max min octet_length printf random randomblob snippet sqlite_source_id sqlite_version strftime timediff total
total_changes typeof unicode unixepoch unlikely zeroblob generate_series string_agg concat
"""

READING: dict[str, frozenset[str]] = {
    "postgres": frozenset((_COMMON + _POSTGRES).split()),
    "mysql": frozenset((_COMMON + _MYSQL).split()),
    "sqlite": frozenset((_COMMON + _SQLITE).split()),
}
"""By sqlglot's name of the dialect; lower case."""
