"""Protocol buffer messages from a table of their fields, for formats of which only a few fields are of interest.

Fields that are not in the table are skipped when a message is read.
"""

import functools


def message_classes(package, fields):
    """{name: class} of messages whose fields are {name: {field: (number, type)}}.

    type is a scalar of protocol buffers ('string', 'bytes', 'float', 'double', 'int32' ...; enums are int32) or the
    name of another message of the table, with 'repeated ' in front where there may be several.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name=f'{package}.proto', package=package, syntax='proto2')
    for name, members in fields.items():
        message = file.message_type.add(name=name)
        for member, (number, kind) in members.items():
            _add_field(message.field.add(name=member, number=number), package, kind, fields)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    find = functools.partial(pool.FindMessageTypeByName)
    return {name: message_factory.GetMessageClass(find(f'{package}.{name}')) for name in fields}


def _add_field(field, package, kind, messages):
    is_repeated = kind.startswith('repeated ')
    kind = kind.removeprefix('repeated ')
    field.label = field.LABEL_REPEATED if is_repeated else field.LABEL_OPTIONAL
    if kind in messages:
        field.type, field.type_name = field.TYPE_MESSAGE, f'.{package}.{kind}'
    else:
        field.type = getattr(field, f'TYPE_{kind.upper()}')
